"""Rows become conversations and preference pairs; the tasks with checkable answers that come with Rayse."""

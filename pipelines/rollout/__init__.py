"""Reinforcement learning: prompts, rewards, experience, advantages, critics, and the learner. No Ray."""

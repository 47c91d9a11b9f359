"""The tasks that come with Rayse: exchanges with checkable answers, in English and Chinese. table.py lists them."""

"""Jobs that make images: checked as a whole, run, and tried again."""

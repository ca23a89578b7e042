"""What makes images: one library a file."""

"""Models of imagemill behind the APIs that image clients already speak."""

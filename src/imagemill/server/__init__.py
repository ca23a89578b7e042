"""The server: every model of imagemill behind the APIs that image clients already speak."""

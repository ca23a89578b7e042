"""What listens: the web app, and the API that image clients already speak."""

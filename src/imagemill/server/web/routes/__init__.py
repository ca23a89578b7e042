"""The routes of the web app, a module for each subject."""

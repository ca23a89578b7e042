"""The web app: prompts up, jobs queued, pictures curated."""

"""What an app asks for beside Bouquet: what is here, what is missing, and where it is added before anything runs."""

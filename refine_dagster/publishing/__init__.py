"""What leaves a home: models to talk to, datasets to publish, and their cards."""

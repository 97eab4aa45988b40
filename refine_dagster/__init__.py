"""refine-dagster: seed tasks in, instruction dataset and fine-tuned model out."""

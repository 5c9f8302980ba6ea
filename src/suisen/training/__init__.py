"""the trainer, its checkpoints and its callbacks"""

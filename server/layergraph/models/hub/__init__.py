"""KerasHub's model classes: backbones, and tasks on them."""

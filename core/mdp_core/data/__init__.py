"""What passes between stages: images, instances, label maps; plain typed classes with their own file formats."""

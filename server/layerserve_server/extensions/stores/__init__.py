"""Models in a store elsewhere (`s3://`, `gs://`, `az://`, `hf://`, ...), by way of a folder of copies."""

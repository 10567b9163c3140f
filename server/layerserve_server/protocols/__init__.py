"""Messages of protocols that others have defined, in a descriptor pool of their own (see `pool`)."""

"""Online training: sessions that train step by step, with data as it comes."""

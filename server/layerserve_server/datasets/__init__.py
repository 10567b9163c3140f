"""What runs read: files where they lie (`data_file`, `reader`), arrays that were written (`writer`), and datasets.

Datasets are files that callers upload once and that any number of runs read. The disk is the only truth.

STATE/datasets/ID/content.FORMAT    the file; ID is its SHA-256
STATE/datasets/ID/dataset.json      what is known of it (`Dataset`); its mtime is the time of its last use
STATE/datasets/ID/sample.json       its first rows
STATE/datasets/ID-FORMAT-OWNER.part/    what has come of an upload by one caller (`Part`)
STATE/datasets/.unfinished-RANDOM/  a dataset while it is made of sampled requests
STATE/datasets/.deleted-ID-RANDOM/  a dataset that is being deleted
STATE/datasets/.lock                locked while what callers have is added up or changed
"""

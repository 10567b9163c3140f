"""Parts of the server that can be taken away, a folder each. The core imports none of them.

Read `extension` first: the seam between an extension and the core. `installed` has the table of extensions.
"""

"""NOTE, 19:55: the first version of this file was overwritten by accident by the engineer of the service tests.

Whoever made it: please write it again over this note; there is no copy. Sorry. (My own helper is leaves.py now.)
"""

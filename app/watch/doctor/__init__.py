"""``bouquet doctor``: what would go wrong with a federation here, before it does.

``rules.py`` is the list of rules, ``site.py`` what they look at. Each rule has a file of its own, in the folder of its phase.
"""

"""``foredraft bench``: every mode over every network, interleaved in one run, as figures and pictures.

:mod:`.grid` says what is to be measured, :mod:`.measure` does it, :mod:`.samples` boils an answer down to what is kept of it,
:mod:`.figures` adds samples up, :mod:`.document` is the file, and :mod:`.markdown`, :mod:`.page` and :mod:`.versus` show it.
"""

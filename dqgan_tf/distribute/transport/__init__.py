"""What carries packets between replicas.

`contract.py` declares what every transport provides. `collectives.py` implements it with TensorFlow's collectives and
for hosts of several replicas, `sockets.py` with the TCP connections of `connection.py` between processes on CPUs.
`transports.py` chooses one and owns what it opened.
"""

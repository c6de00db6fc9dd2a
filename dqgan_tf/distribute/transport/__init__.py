"""What carries packets between replicas.

`collectives.py` declares what every transport provides, and implements it with TensorFlow's collectives, for hosts of
several replicas, and with the TCP connections of `connection.py` between processes on CPUs. `transports.py` chooses one
and owns what it opened.
"""

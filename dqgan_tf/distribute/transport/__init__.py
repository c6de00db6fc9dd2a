"""What carries packets between replicas.

contract.py says what every transport provides. collectives.py implements it by TensorFlow's collectives and for hosts
of several replicas; sockets.py by TCP connections between processes on CPUs, which endpoint.py opens and connection.py
reads and writes. transports.py chooses one and owns what it opened.
"""

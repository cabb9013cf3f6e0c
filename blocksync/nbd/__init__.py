"""A client of the network block device protocol.

``wire`` has the numbers, ``negotiation`` and ``transmission`` are sans-IO, ``connection`` and ``export`` drive
them over sockets, ``qemu`` starts a server for image formats. Written for this package since no kept binding
installs by itself: libnbd's needs the system's library.

Source of the format: https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md.
"""

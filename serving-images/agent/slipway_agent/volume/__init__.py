"""Files in the pod's models volume: what is published there, archives and image layers that are unpacked, digests."""

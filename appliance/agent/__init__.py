"""What runs on the server that uses the library: a client of the API, of the server's own initiator and of its kernel.

It mounts drives, holds file systems still for a moment, and says where files lie. What a backup knows of a file
(appliance.backup.entries) and how that is written (listing) is all that it shares with the appliance's own rooms.
"""

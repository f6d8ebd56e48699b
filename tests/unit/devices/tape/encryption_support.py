"""Setting keys and asking for status pages. The page that sets a key is laid out as stenc and Bareos send it."""

import random
import struct

from scsi_targets.t10 import spc
from tests.unit.devices.support import ALPHA, data_of, send

KEY = random.Random(7).randbytes(32)
OTHER_KEY = random.Random(8).randbytes(32)
TEXT = b"the plain text that must not lie on the medium. " * 40
ALL, LOCAL, PUBLIC = 2, 1, 0
DISABLE, EXTERNAL, ENCRYPT = 0, 1, 2
RAW, DECRYPT, MIXED = 1, 2, 3


def kad(kind, data):
    return struct.pack(">BBH", kind, 0, len(data)) + data


def set_page(
    encryption=ENCRYPT, decryption=DECRYPT, key=KEY, *, scope=ALL, lock=0, flags=0x40, index=1, kads=b"", kad_format=0
):
    body = bytes([scope << 5 | lock, flags, encryption, decryption, index, 0, kad_format]) + bytes(7)
    body += struct.pack(">H", len(key)) + key + kads
    return struct.pack(">HH", 0x0010, len(body)) + body


def set_encryption(drive, *args, nexus=ALPHA, **kwargs):
    return spout(drive, set_page(*args, **kwargs), nexus=nexus)


def spout(drive, data, *, nexus=ALPHA, page=0x10, protocol=0x20):
    cdb = spc.SecurityProtocolOut.encode(
        security_protocol=protocol, security_protocol_specific=page, transfer_length=len(data)
    )
    return send(drive, cdb, data=data, nexus=nexus)


def spin(drive, page, *, protocol=0x20, nexus=ALPHA, length=8192):
    cdb = spc.SecurityProtocolIn.encode(
        security_protocol=protocol, security_protocol_specific=page, allocation_length=length
    )
    return send(drive, cdb, nexus=nexus)


def status(drive, **kwargs):
    return data_of(spin(drive, 0x20, **kwargs))


def next_block(drive, **kwargs):
    data = data_of(spin(drive, 0x21, **kwargs))
    assert int.from_bytes(data[2:4], "big") == len(data) - 4
    return data


def off(drive, **kwargs):
    return set_encryption(drive, DISABLE, DISABLE, b"", **kwargs)

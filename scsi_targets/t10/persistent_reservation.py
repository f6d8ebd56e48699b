"""Parameter data of PERSISTENT RESERVE IN and OUT (SPC-5 6.15, 6.16) and the iSCSI TransportID (SPC-5 7.6.4.6)."""

from scsi_targets.t10.fields import Bits, Structure


class PersistentReserveInHeader(Structure, length=8):
    """What READ KEYS, READ RESERVATION and READ FULL STATUS data begin with (SPC-5 tables 183, 184, 189)."""

    generation = Bits(0, 7, 32)
    additional_length = Bits(4, 7, 32)


class ReservationDescriptor(Structure, length=16):
    """The reservation in READ RESERVATION data (SPC-5 table 184)."""

    reservation_key = Bits(0, 7, 64)
    scope = Bits(13, 7, 4)
    type = Bits(13, 3, 4)


class ReservationCapabilities(Structure, length=8):
    """REPORT CAPABILITIES parameter data (SPC-5 table 186)."""

    parameter_length = Bits(0, 7, 16, default=8)
    replace_lost_reservation_capable = Bits(2, 7, 1)
    compatible_reservation_handling = Bits(2, 4, 1)
    specify_initiator_ports_capable = Bits(2, 3, 1, default=1)
    all_target_ports_capable = Bits(2, 2, 1)
    persist_through_power_loss_capable = Bits(2, 0, 1, default=1)
    type_mask_valid = Bits(3, 7, 1, default=1)
    allow_commands = Bits(3, 6, 3, default=1)  # what is allowed under WRITE EXCLUSIVE is (SPC-5 table 187)
    persist_through_power_loss_activated = Bits(3, 0, 1)
    persistent_reservation_type_mask = Bits(4, 7, 16)


class FullStatusDescriptor(Structure, length=24):
    """One registered nexus in READ FULL STATUS data, without its TransportID (SPC-5 table 190)."""

    reservation_key = Bits(0, 7, 64)
    all_target_ports = Bits(12, 1, 1)
    reservation_holder = Bits(12, 0, 1)
    scope = Bits(13, 7, 4)
    type = Bits(13, 3, 4)
    relative_target_port_identifier = Bits(18, 7, 16)
    additional_descriptor_length = Bits(20, 7, 32)


class BasicParameterList(Structure, length=24):
    """PERSISTENT RESERVE OUT parameter list (SPC-5 table 196)."""

    reservation_key = Bits(0, 7, 64)
    service_action_reservation_key = Bits(8, 7, 64)
    specify_initiator_ports = Bits(20, 3, 1)
    all_target_ports = Bits(20, 2, 1)
    activate_persist_through_power_loss = Bits(20, 0, 1)


class SpecifyInitiatorPortsParameterList(Structure, length=28):
    """What precedes the TransportIDs of a REGISTER with SPEC_I_PT, after the basic list (SPC-4 table 225)."""

    transport_ids_length = Bits(24, 7, 32)


class RegisterAndMoveParameterList(Structure, length=24):
    """REGISTER AND MOVE parameter list, without the TransportID (SPC-5 table 199)."""

    reservation_key = Bits(0, 7, 64)
    service_action_reservation_key = Bits(8, 7, 64)
    unregister = Bits(17, 1, 1)
    activate_persist_through_power_loss = Bits(17, 0, 1)
    relative_target_port_identifier = Bits(18, 7, 16)
    transport_id_length = Bits(20, 7, 32)


class TransportId(Structure, length=4):
    """The head of an iSCSI TransportID; a null-terminated name padded to a multiple of four follows."""

    format_and_protocol = Bits(0, 7, 8)  # FORMAT CODE (2 bits), two reserved, PROTOCOL IDENTIFIER (4 bits)
    additional_length = Bits(2, 7, 16)

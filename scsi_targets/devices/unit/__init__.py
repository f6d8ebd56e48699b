"""What every logical unit is: dispatch, queue, attentions, reservations, mode, log, identity."""

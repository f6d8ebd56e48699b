"""SCSI and iSCSI: decides what a command means; knows nothing of files, formats or HTTP."""

"""A SCSI client: commands to the logical units of any iSCSI target, from the declarations that the targets use."""

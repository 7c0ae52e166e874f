"""Rules about keys, certificates, enrolment and the partition id."""

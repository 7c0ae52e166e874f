"""All rules, by phase, in the order in which they are told."""

from app.watch.doctor.data import classes, pictures, shape, store
from app.watch.doctor.engine import compose, engine, nvidia_runtime
from app.watch.doctor.gpu import driver, visible
from app.watch.doctor.gpu import memory as gpu_memory
from app.watch.doctor.identity import ca, certificates, enrolment, expiry, key, partition
from app.watch.doctor.machine import disk, memory, patches, settings, volumes
from app.watch.doctor.network import certificate, clock, name, ports, superlink, tls, versions
from app.watch.doctor.rule import Rule

RULES: tuple[Rule, ...] = (
    settings.RULE,
    disk.RULE,
    memory.RULE,
    volumes.RULE,
    patches.RULE,
    engine.RULE,
    compose.RULE,
    nvidia_runtime.RULE,
    ports.RULE,
    name.RULE,
    superlink.RULE,
    tls.RULE,
    certificate.RULE,
    clock.RULE,
    versions.RULE,
    ca.RULE,
    key.RULE,
    certificates.RULE,
    expiry.RULE,
    enrolment.RULE,
    partition.RULE,
    pictures.RULE,
    store.RULE,
    classes.RULE,
    shape.RULE,
    driver.RULE,
    visible.RULE,
    gpu_memory.RULE,
)

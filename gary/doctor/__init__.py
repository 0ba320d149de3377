"""Looks at the machine that the service is to run on and says what to do. It needs no running service.

It asks the machine through `gary.doctor.machine.Machine` alone, and judges what it hears in `checks` and `storage`.
"""

"""Nebula with what its default leaves off: TSO/USO on the TUN device and GSO/GRO on UDP (since 1.12)."""
import json
import subprocess

from adapters import nebula


class Adapter(nebula.Adapter):
    notes = "tun.use_offloads and listen.udp_offloads on, else as nebula"

    @classmethod
    def available(cls):
        """Older releases ignore the two settings, and would be measured twice under two names."""
        if not super().available():
            return False
        words = subprocess.run([cls.bin(), "-version"], stdout=subprocess.PIPE, text=True).stdout.split()
        release = words[-1].lstrip("v").split(".") if words else ["0"]
        return [int(part) for part in release[:2] if part.isdigit()] >= [1, 12]

    def configure(self):
        super().configure()
        for node in self.lab.nodes:
            path = self.lab.path(node + ".yml")
            with open(path) as stored:
                settings = json.load(stored)
            settings["tun"]["use_offloads"] = True
            settings["listen"]["udp_offloads"] = True
            with open(path, "w") as stored:
                json.dump(settings, stored)

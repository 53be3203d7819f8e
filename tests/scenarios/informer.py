"""Follows the ConfigMaps of a namespace with the official client's informer and says what it missed.

Every ConfigMap carries a number that its writer counts up by one with each write, so a lost or repeated
event shows. The ConfigMap `end` ends the program: the informer's cache is then compared with a list.

    informer.py KUBECONFIG NAMESPACE
"""

import logging
import sys
import threading

from kubernetes import client, config
from kubernetes.informer import ADDED, DELETED, MODIFIED, SharedInformer

END = "end"

# The wait for the end; only a defect comes near it.
DEADLINE_SECONDS = 300


class Follower:
    def __init__(self):
        self.numbers = {}
        self.events = 0
        self.defects = []
        self.ended = threading.Event()

    def on_write(self, item):
        name = item.metadata.name
        self.events += 1
        if name == END:
            self.ended.set()
            return
        # Controllers keep ConfigMaps of their own in every namespace.
        if "number" not in (item.data or {}):
            return
        number = int(item.data["number"])
        before = self.numbers.get(name)
        if before is not None and number != before + 1:
            self.defects.append(f"{name}: {number} came after {before}")
        self.numbers[name] = number

    def on_delete(self, item):
        self.events += 1
        name = item.metadata.name
        number = int(item.data["number"])
        if number != self.numbers.get(name):
            self.defects.append(f"{name}: deleted at {number}, last seen {self.numbers.get(name)}")


def main(kubeconfig, namespace):
    # The informer logs each broken connection with its trace; breaking them is the point here.
    logging.disable(logging.CRITICAL)
    config.load_kube_config(kubeconfig)
    core = client.CoreV1Api()
    follower = Follower()
    informer = SharedInformer(core.list_namespaced_config_map, namespace=namespace)
    informer.add_event_handler(ADDED, follower.on_write)
    informer.add_event_handler(MODIFIED, follower.on_write)
    informer.add_event_handler(DELETED, follower.on_delete)
    informer.start()
    print("following", flush=True)
    if not follower.ended.wait(DEADLINE_SECONDS):
        follower.defects.append(f"the end did not come; {follower.events} events were seen")
    cached = {item.metadata.name: item.metadata.resource_version for item in informer.cache.list()}
    listed = None
    while listed is None:
        try:
            items = core.list_namespaced_config_map(namespace).items
            listed = {item.metadata.name: item.metadata.resource_version for item in items}
        except Exception as error:  # the connection may be the next to be cut
            print(f"again: {error}", file=sys.stderr)
    if cached != listed:
        follower.defects.append(f"the cache differs: {set(cached.items()) ^ set(listed.items())}")
    for defect in follower.defects[:20]:
        print(defect)
    print(f"{follower.events} events, {len(follower.defects)} defects", flush=True)
    sys.stdout.flush()
    return 1 if follower.defects else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

"""OpenStack Swift with its S3 interface on loopback, all of it in one process.

Its proxy, account, container and object servers are those that sites run, with rings of one device. They keep what they
are given below the directory of the argument; the proxy's port is told on a line of its own. All ends with whoever holds
standard input open. There is no memcached: Swift goes on without it. Its limits are long, as a sync of the disk stops
all four.
"""

import os
import sys

import eventlet
from swift.common import utils, wsgi
from swift.common.ring import RingBuilder

ROOT = sys.argv[1]
COMMON = """[DEFAULT]
swift_dir = {root}
devices = {root}/devices
mount_check = false
fallocate_reserve = 0
bind_ip = 127.0.0.1
bind_port = {port}
conn_timeout = 20
node_timeout = 60
"""
STORAGE = """[pipeline:main]
pipeline = {name}-server
[app:{name}-server]
use = egg:swift#{name}
"""
PROXY = """[pipeline:main]
pipeline = catch_errors gatekeeper cache listing_formats s3api tempauth copy slo dlo {name}-server
[app:{name}-server]
use = egg:swift#{name}
account_autocreate = true
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:gatekeeper]
use = egg:swift#gatekeeper
[filter:cache]
use = egg:swift#memcache
memcache_servers = 127.0.0.1:1
[filter:listing_formats]
use = egg:swift#listing_formats
[filter:s3api]
use = egg:swift#s3api
[filter:tempauth]
use = egg:swift#tempauth
user_site_images = secret .admin
[filter:copy]
use = egg:swift#copy
[filter:slo]
use = egg:swift#slo
[filter:dlo]
use = egg:swift#dlo
"""
SERVERS = {"account": STORAGE, "container": STORAGE, "object": STORAGE, "proxy": PROXY}


def ring(name, port):
    """Says where the server of that name is."""
    builder = RingBuilder(1, 1, 0)
    builder.add_dev(dict(region=0, zone=0, ip="127.0.0.1", port=port, device="d", weight=1))
    builder.rebalance()
    builder.get_ring().save(os.path.join(ROOT, name + ".ring.gz"))


def serve(name, listener):
    """Starts the server of that name."""
    path = os.path.join(ROOT, name + ".conf")
    with open(path, "w") as conf:
        conf.write((COMMON + SERVERS[name]).format(root=ROOT, port=listener.getsockname()[1], name=name))
    app = wsgi.loadapp(path, global_conf={"log_name": name})
    eventlet.spawn(eventlet.wsgi.server, listener, app, log_output=False, protocol=wsgi.SwiftHttpProtocol)


eventlet.hubs.use_hub(utils.get_hub())
eventlet.patcher.monkey_patch(all=False, socket=True, select=True, thread=True)
os.makedirs(os.path.join(ROOT, "devices", "d"))
# What /etc/swift/swift.conf has of a site.
utils.HASH_PATH_PREFIX = b"kaltstart"

listeners = {name: eventlet.listen(("127.0.0.1", 0)) for name in SERVERS}
ports = {name: listener.getsockname()[1] for name, listener in listeners.items()}
for name in ["account", "container", "object"]:
    ring(name, ports[name])
for name, listener in listeners.items():
    serve(name, listener)
print(ports["proxy"], flush=True)
eventlet.hubs.trampoline(sys.stdin.fileno(), read=True)

"""The first process (init) of the namespaces of `root_file_system.py`. It is started as a script, never imported.

The argument is the descriptor of a Unix socket. The reply to a message `socket` is a new TCP socket, which belongs to
the network of these namespaces in any process. Any other message is a command as a JSON list, with descriptors for its
standard output and error. This process ends with the exit status of the command, and so do all others here.
"""

import fcntl
import json
import os
import socket
import struct
import subprocess
import sys
import threading

SIOCSIFFLAGS = 0x8914  # netdevice(7)
IFF_UP = 1


def main() -> None:
    with socket.socket() as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))
    channel = socket.socket(fileno=int(sys.argv[1]))
    while True:
        message, descriptors, _, _ = socket.recv_fds(channel, 1 << 16, 2)
        if message == b"socket":
            with socket.socket() as made:
                socket.send_fds(channel, [message], [made.fileno()])
        elif message:
            stdout, stderr = descriptors
            process = subprocess.Popen(json.loads(message), stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr)
            threading.Thread(target=end_with, args=[process], daemon=True).start()
        else:
            break


def end_with(process: "subprocess.Popen[bytes]") -> None:
    status = process.wait()
    os._exit(status if status >= 0 else 128 - status)


main()

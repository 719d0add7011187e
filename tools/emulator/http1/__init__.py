"""HTTP/1.1 for a server, on blocking sockets.

    connection   requests, read strictly; the rules against request smuggling
    server       a listening socket, and a thread for each connection
    responses    responses with a body of known length, and streams of chunks

They import nothing of the emulator but each other.
"""

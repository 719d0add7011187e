/* The lower bound: a process of a function that only sends chunks, each with one send().
 *
 * The event defines them: {"chunks": COUNT, "size": BYTES, "pause_us": MICROSECONDS}. With a pause, each chunk is the
 * moment when it is sent, as twenty digits.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static int connection;
static char response[1 << 16];

static void check(int ok, const char *what) {
    if (!ok) {
        fprintf(stderr, "client: %s\n", what);
        exit(1);
    }
}

static void send_all(const char *data, size_t length) {
    while (length) {
        ssize_t count = send(connection, data, length, MSG_NOSIGNAL);
        check(count > 0, "the server closed the connection");
        data += count;
        length -= (size_t)count;
    }
}

static long number(const char *text, const char *name) {
    const char *found = strstr(text, name);
    return found ? strtol(found + strlen(name), NULL, 10) : 0;
}

/* Read a response and return its body. */
static char *read_response(void) {
    size_t length = 0;
    char *body = NULL;
    do {
        ssize_t count = recv(connection, response + length, sizeof response - 1 - length, 0);
        check(count > 0, "the server closed the connection");
        length += (size_t)count;
        response[length] = 0;
        body = strstr(response, "\r\n\r\n");
    } while (!body || (size_t)(response + length - body - 4) < (size_t)number(response, "Content-Length: "));
    return body + 4;
}

static void stamp(char *digits) {
    struct timespec moment;
    clock_gettime(CLOCK_MONOTONIC, &moment);
    char text[24];
    snprintf(text, sizeof text, "%020" PRId64, moment.tv_sec * INT64_C(1000000000) + moment.tv_nsec);
    memcpy(digits, text, 20);
}

static void respond(const char *event) {
    long chunks = number(event, "\"chunks\": "), size = number(event, "\"size\": "), pause = number(event, "\"pause_us\": ");
    char *text = malloc((size_t)size + 1024);
    check(text != NULL, "out of memory");
    int head = snprintf(text, 1000,
                        "POST /2018-06-01/runtime/invocation/1/response HTTP/1.1\r\nHost: localhost\r\n"
                        "Lambda-Runtime-Function-Response-Mode: streaming\r\nContent-Type: application/octet-stream\r\n"
                        "Transfer-Encoding: chunked\r\n\r\n");
    int line = snprintf(text + head, 20, "%lx\r\n", size);
    char *data = text + head + line;
    memset(data, 'x', (size_t)size);
    memcpy(data + size, "\r\n", 2);
    for (long i = 0; i < chunks; i++) {
        if (pause)
            usleep((useconds_t)pause);
        if (pause)
            stamp(data);
        char *from = i ? text + head : text;
        send_all(from, (size_t)(data + size + 2 - from));
    }
    send_all("0\r\n\r\n", 5);
    free(text);
}

int main(void) {
    static const char next[] = "GET /2018-06-01/runtime/invocation/next HTTP/1.1\r\nHost: localhost\r\n\r\n";
    const char *api = getenv("AWS_LAMBDA_RUNTIME_API");
    const char *colon = api ? strrchr(api, ':') : NULL;
    const int one = 1;
    check(colon != NULL, "AWS_LAMBDA_RUNTIME_API is not host:port");
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
                                  .sin_port = htons((uint16_t)atoi(colon + 1))};
    connection = socket(AF_INET, SOCK_STREAM, 0);
    check(connect(connection, (struct sockaddr *)&address, sizeof address) == 0, "cannot connect");
    setsockopt(connection, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    for (;;) {
        send_all(next, sizeof next - 1);
        respond(read_response());
        read_response();
    }
}

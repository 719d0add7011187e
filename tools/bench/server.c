/* The Runtime API of a benchmark. It serves one process and does as little as possible meanwhile.
 *
 * It prints its port, then reads one command per line from standard input: "COUNT EVENT" sends the same event COUNT
 * times. When the process asks for one more invocation, it prints "COUNT DELAYS", then a line for each invocation with
 * five moments:
 *   asked      the request for the invocation was read
 *   sent       before the invocation was sent
 *   first_byte the first byte of the response's body was received
 *   last_byte  the last byte of the response was received
 *   ready      the request for the next invocation was read
 * then a line for each chunk of twenty digits, which are the moment when the handler yielded it: the delay until it was
 * received. All numbers are nanoseconds of CLOCK_MONOTONIC. The server exits when its standard input is closed.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define STAMP_BYTES 20 /* a chunk of this size is a moment in decimal digits */
#define MAX_DELAYS 1000000

struct moments {
    int64_t asked, sent, first_byte, last_byte, ready;
};

static int listener, connection = -1;
static char buffer[1 << 18];
static size_t start, stop; /* received, not yet consumed */
static int64_t received_at;
static int64_t delays[MAX_DELAYS];
static long delay_count;

static void fail(const char *what) {
    fprintf(stderr, "%s\n", what);
    exit(1);
}

static int64_t now(void) {
    struct timespec moment;
    clock_gettime(CLOCK_MONOTONIC, &moment);
    return moment.tv_sec * INT64_C(1000000000) + moment.tv_nsec;
}

static int fill(void) {
    if (start == stop)
        start = stop = 0;
    if (stop == sizeof buffer) {
        memmove(buffer, buffer + start, stop - start);
        stop -= start;
        start = 0;
    }
    if (stop == sizeof buffer)
        fail("a line is too long");
    ssize_t count = recv(connection, buffer + stop, sizeof buffer - stop, 0);
    received_at = now();
    if (count <= 0)
        return 0;
    stop += (size_t)count;
    return 1;
}

static void fill_or_fail(void) {
    if (!fill())
        fail("the connection ended in the middle of a response");
}

/* Return the next line without its end, NULL if the connection ends. */
static char *read_line(void) {
    char *end;
    while (!(end = memchr(buffer + start, '\n', stop - start)))
        if (!fill())
            return NULL;
    char *line = buffer + start;
    start = (size_t)(end - buffer) + 1;
    *end = 0;
    if (end > line && end[-1] == '\r')
        end[-1] = 0;
    return line;
}

static char *response_line(void) {
    char *line = read_line();
    if (!line)
        fail("the connection ended in the middle of a response");
    return line;
}

static void skip(size_t count) {
    while (count > stop - start) {
        count -= stop - start;
        start = stop;
        fill_or_fail();
    }
    start += count;
}

static void note_delay(void) {
    while (stop - start < STAMP_BYTES)
        fill_or_fail();
    char digits[STAMP_BYTES + 1];
    memcpy(digits, buffer + start, STAMP_BYTES);
    digits[STAMP_BYTES] = 0;
    if (delay_count < MAX_DELAYS)
        delays[delay_count++] = received_at - strtoll(digits, NULL, 10);
}

static void reply(const char *data, size_t length) {
    if (send(connection, data, length, MSG_NOSIGNAL) != (ssize_t)length)
        fail("the process closed the connection");
}

static void accept_connection(void) {
    const int one = 1;
    if (connection >= 0)
        close(connection);
    start = stop = 0;
    connection = accept(listener, NULL, NULL);
    if (connection < 0)
        fail("cannot accept a connection");
    setsockopt(connection, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
}

/* Read a request for an invocation, and return when it was received. The process may reconnect before it. */
static int64_t expect_next(void) {
    char *line;
    if (connection < 0)
        accept_connection();
    while (!(line = read_line()))
        accept_connection();
    if (!strstr(line, "/runtime/invocation/next"))
        fail(line);
    while (*response_line())
        ;
    return received_at;
}

static void read_chunks(int64_t *first_byte) {
    size_t size = strtoul(response_line(), NULL, 16);
    *first_byte = received_at;
    while (size) {
        if (size == STAMP_BYTES)
            note_delay();
        skip(size + 2);
        size = strtoul(response_line(), NULL, 16);
    }
    while (*response_line())
        ;
}

static void read_response(struct moments *moments) {
    char *line = response_line();
    size_t length = 0;
    if (!strstr(line, "/response"))
        fail(line);
    while (*(line = response_line()))
        if (!strncasecmp(line, "content-length:", 15))
            length = strtoul(line + 15, NULL, 10);
    if (length) {
        if (start == stop)
            fill_or_fail();
        moments->first_byte = received_at;
        skip(length);
    } else {
        read_chunks(&moments->first_byte);
    }
    moments->last_byte = received_at;
}

static void invoke(struct moments *moments, const char *event) {
    static long count;
    static char text[1 << 16];
    static const char accepted[] = "HTTP/1.1 202 Accepted\r\nContent-Type: application/json\r\nContent-Length: 16\r\n\r\n"
                                   "{\"status\":\"OK\"}\n";
    int length = snprintf(text, sizeof text,
                          "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
                          "Lambda-Runtime-Aws-Request-Id: 00000000-0000-4000-8000-%012ld\r\n"
                          "Lambda-Runtime-Deadline-Ms: 4102444800000\r\n"
                          "Lambda-Runtime-Invoked-Function-Arn: arn:aws:lambda:eu-west-1:123456789012:function:f\r\n"
                          "Lambda-Runtime-Trace-Id: Root=1-5bef4de7-ad49b0e87f6ef6c87fc2e700;Parent=9a9197af755a6419\r\n"
                          "Content-Length: %zu\r\n\r\n%s",
                          ++count, strlen(event), event);
    if (length >= (int)sizeof text)
        fail("the event is too long");
    moments->sent = now();
    reply(text, (size_t)length);
    read_response(moments);
    reply(accepted, sizeof accepted - 1);
    moments->ready = expect_next();
}

static void run_command(const char *command) {
    static int64_t asked;
    char *event;
    long count = strtol(command, &event, 10);
    struct moments *moments = calloc((size_t)count + 1, sizeof *moments);
    if (!moments)
        fail("out of memory");
    if (!asked)
        asked = expect_next();
    delay_count = 0;
    for (long i = 0; i < count; i++) {
        moments[i].asked = asked;
        invoke(&moments[i], event + 1);
        asked = moments[i].ready;
    }
    printf("%ld %ld\n", count, delay_count);
    for (struct moments *m = moments; m < moments + count; m++)
        printf("%" PRId64 " %" PRId64 " %" PRId64 " %" PRId64 " %" PRId64 "\n", m->asked, m->sent, m->first_byte, m->last_byte,
               m->ready);
    for (long i = 0; i < delay_count; i++)
        printf("%" PRId64 "\n", delays[i]);
    fflush(stdout);
    free(moments);
}

int main(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    char *command = NULL;
    size_t capacity = 0;
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* no server is left if the benchmark is killed */
    listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, length) || listen(listener, 8) ||
        getsockname(listener, (struct sockaddr *)&address, &length))
        fail("cannot listen on a socket");
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    while (getline(&command, &capacity, stdin) > 0) {
        command[strcspn(command, "\n")] = 0;
        run_command(command);
    }
    return 0;
}

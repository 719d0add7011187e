/* The Runtime API of a benchmark: one process is served, and as little as possible is done meanwhile.
 *
 * Writes the port it listens on, then takes one command a line: "COUNT EVENT" gives COUNT invocations the same event.
 * The reply, once the process asks for one more, is "COUNT STAMPS"; then a line for each invocation with five moments:
 *   next     its request for the invocation was read
 *   answered the invocation was about to be sent
 *   first    the first byte of the answer's body was received
 *   end      the last byte of the answer was received
 *   ready    the request after that was read
 * then a line for each stamp: how long after the moment in a chunk (twenty digits) that chunk was received.
 * All in nanoseconds of CLOCK_MONOTONIC. It ends with its standard input.
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

#define STAMP 20 /* digits */
#define MOST_STAMPS 1000000

struct marks {
    int64_t next, answered, first, end, ready;
};

static int listener, connection = -1;
static char buffer[1 << 18];
static size_t start, stop; /* what is received and not yet read */
static int64_t received_at;
static int64_t stamps[MOST_STAMPS];
static long stamp_count;

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
        fail("a line that is too long");
    ssize_t count = recv(connection, buffer + stop, sizeof buffer - stop, 0);
    received_at = now();
    if (count <= 0)
        return 0;
    stop += (size_t)count;
    return 1;
}

static void fill_or_fail(void) {
    if (!fill())
        fail("the connection ended within an answer");
}

/* The next line without its end, NULL where the connection ends. */
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

static char *line_of_answer(void) {
    char *line = read_line();
    if (!line)
        fail("the connection ended within an answer");
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

static void note_stamp(void) {
    while (stop - start < STAMP)
        fill_or_fail();
    char digits[STAMP + 1];
    memcpy(digits, buffer + start, STAMP);
    digits[STAMP] = 0;
    if (stamp_count < MOST_STAMPS)
        stamps[stamp_count++] = received_at - strtoll(digits, NULL, 10);
}

static void reply(const char *data, size_t length) {
    if (send(connection, data, length, MSG_NOSIGNAL) != (ssize_t)length)
        fail("the process has gone");
}

static void connect_anew(void) {
    const int one = 1;
    if (connection >= 0)
        close(connection);
    start = stop = 0;
    connection = accept(listener, NULL, NULL);
    if (connection < 0)
        fail("no connection");
    setsockopt(connection, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
}

/* Read a request for an invocation; a connection may end before one. Gives the moment when it was there. */
static int64_t expect_next(void) {
    char *line;
    if (connection < 0)
        connect_anew();
    while (!(line = read_line()))
        connect_anew();
    if (!strstr(line, "/runtime/invocation/next"))
        fail(line);
    while (*line_of_answer())
        ;
    return received_at;
}

static void read_chunks(int64_t *first) {
    size_t size = strtoul(line_of_answer(), NULL, 16);
    *first = received_at;
    while (size) {
        if (size == STAMP)
            note_stamp();
        skip(size + 2);
        size = strtoul(line_of_answer(), NULL, 16);
    }
    while (*line_of_answer())
        ;
}

static void read_response(struct marks *mark) {
    char *line = line_of_answer();
    size_t length = 0;
    if (!strstr(line, "/response"))
        fail(line);
    while (*(line = line_of_answer()))
        if (!strncasecmp(line, "content-length:", 15))
            length = strtoul(line + 15, NULL, 10);
    if (length) {
        if (start == stop)
            fill_or_fail();
        mark->first = received_at;
        skip(length);
    } else {
        read_chunks(&mark->first);
    }
    mark->end = received_at;
}

static void invoke(struct marks *mark, const char *event) {
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
        fail("an event that is too long");
    mark->answered = now();
    reply(text, (size_t)length);
    read_response(mark);
    reply(accepted, sizeof accepted - 1);
    mark->ready = expect_next();
}

static void obey(const char *command) {
    static int64_t asked;
    char *event;
    long count = strtol(command, &event, 10);
    struct marks *marks = calloc((size_t)count + 1, sizeof *marks);
    if (!marks)
        fail("out of memory");
    if (!asked)
        asked = expect_next();
    stamp_count = 0;
    for (long i = 0; i < count; i++) {
        marks[i].next = asked;
        invoke(&marks[i], event + 1);
        asked = marks[i].ready;
    }
    printf("%ld %ld\n", count, stamp_count);
    for (struct marks *m = marks; m < marks + count; m++)
        printf("%" PRId64 " %" PRId64 " %" PRId64 " %" PRId64 " %" PRId64 "\n", m->next, m->answered, m->first, m->end,
               m->ready);
    for (long i = 0; i < stamp_count; i++)
        printf("%" PRId64 "\n", stamps[i]);
    fflush(stdout);
    free(marks);
}

int main(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    char *command = NULL;
    size_t room = 0;
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* it never outlives the benchmark, whatever ends that */
    listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, length) || listen(listener, 8) ||
        getsockname(listener, (struct sockaddr *)&address, &length))
        fail("no socket");
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    while (getline(&command, &room, stdin) > 0) {
        command[strcspn(command, "\n")] = 0;
        obey(command);
    }
    return 0;
}

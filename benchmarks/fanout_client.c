/*
 * Measures fan-out: opens many streaming consumers of one queue, publishes to it over keep-alive
 * connections, and times from the start of a publish until every consumer has the message.
 *
 * Every message carries one marker byte, which occurs nowhere else in what the server sends after
 * the response headers; counting that byte counts messages however the stream is split or framed.
 * One thread, one epoll set: what limits the numbers has to be the server, and client_cpu_share
 * in the output shows whether it was.
 *
 * Prints one line of JSON, and exits with 1 and a line on standard error when a message does not
 * arrive within the time limit, a connection ends, or a publish is refused.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    CONNECT_BATCH = 50,    /* below every server's listen backlog, so that no SYN is dropped */
    EVENTS_PER_WAIT = 512,
    READ_BYTES = 256 * 1024,
    RESPONSE_BYTES = 8192, /* a publish response, headers and body */
    EXTRA_HEADERS_BYTES = 2048,
};

static const char MARKER = '~';

struct options {
    const char *host;
    int port;
    const char *subscribe_path;
    const char *publish_path;
    char subscribe_headers[EXTRA_HEADERS_BYTES];
    char publish_headers[EXTRA_HEADERS_BYTES];
    const char *body_prefix;
    int consumers;
    int burst;          /* messages published at once, each over a connection of its own */
    int value_bytes;
    int warmup_bursts;
    int flow;           /* one publisher goes on as soon as it is answered, deliveries or not */
    double seconds;
    double timeout_seconds;
};

struct consumer {
    int socket;
    int header_match;      /* how much of CRLF CRLF has been seen; 4: the headers are over */
    int status_seen;       /* bytes of the status line checked so far */
    uint64_t received;     /* messages */
};

struct publisher {
    int socket;
    int pending;           /* 1 while a response is awaited */
    size_t filled;
    char response[RESPONSE_BYTES];
};

static struct options options = {
    .host = "127.0.0.1",
    .body_prefix = "",
    .consumers = 1000,
    .burst = 1,
    .value_bytes = 100,
    .warmup_bursts = 20,
    .seconds = 5,
    .timeout_seconds = 30,
};
static struct consumer *consumers;
static struct publisher *publishers;
static int epoll_fd;
static char read_buffer[READ_BYTES];

/* The present burst. */
static uint64_t target;            /* messages each consumer should have by its end */
static uint64_t deliveries_awaited;
static int responses_awaited;
static int headers_awaited;        /* consumers whose response headers are not over */
static uint64_t extra_deliveries;  /* markers beyond the target: a message came twice */

static void fail(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "fanout_client: ");
    vfprintf(stderr, format, arguments);
    fprintf(stderr, "\n");
    va_end(arguments);
    exit(1);
}

static double now_seconds(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static double cpu_seconds(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec)
        + (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

static int connect_socket(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)options.port)};
    int one = 1;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        fail("socket: %s", strerror(errno));
    if (inet_pton(AF_INET, options.host, &address.sin_addr) != 1)
        fail("not an IPv4 address: %s", options.host);
    if (connect(fd, (struct sockaddr *)&address, sizeof address) < 0)
        fail("connect: %s", strerror(errno));
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return fd;
}

static void watch(int fd, uint64_t number)
{
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = number};
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0)
        fail("epoll_ctl: %s", strerror(errno));
}

static void send_all(int fd, const char *data, size_t length)
{
    while (length > 0) {
        ssize_t sent = send(fd, data, length, MSG_NOSIGNAL);
        if (sent < 0 && errno != EINTR)
            fail("send: %s", strerror(errno));
        if (sent > 0) {
            data += sent;
            length -= (size_t)sent;
        }
    }
}

/* Reads past the response headers; returns how many bytes of the data they took. */
static size_t skip_headers(struct consumer *consumer, const char *data, size_t length)
{
    static const char status[] = "HTTP/1.1 200";
    static const char end[] = "\r\n\r\n";
    size_t i;
    for (i = 0; i < length && consumer->header_match < 4; i++) {
        if (consumer->status_seen < (int)sizeof status - 1) {
            if (data[i] != status[consumer->status_seen])
                fail("a consumer was refused: %.*s", (int)length, data);
            consumer->status_seen++;
        }
        if (data[i] == end[consumer->header_match])
            consumer->header_match++;
        else
            consumer->header_match = data[i] == '\r';
    }
    if (consumer->header_match == 4)
        headers_awaited--;
    return i;
}

static uint64_t count_markers(const char *data, size_t length)
{
    uint64_t count = 0;
    const char *end = data + length;
    while ((data = memchr(data, MARKER, (size_t)(end - data))) != NULL) {
        count++;
        data++;
    }
    return count;
}

static void read_consumer(struct consumer *consumer)
{
    ssize_t length = recv(consumer->socket, read_buffer, sizeof read_buffer, 0);
    size_t offset = 0;
    uint64_t fresh, wanted;
    if (length <= 0)
        fail("the stream of a consumer ended: %s", length ? strerror(errno) : "end of file");
    if (consumer->header_match < 4)
        offset = skip_headers(consumer, read_buffer, (size_t)length);
    fresh = count_markers(read_buffer + offset, (size_t)length - offset);
    wanted = target > consumer->received ? target - consumer->received : 0;
    if (fresh > wanted) {
        extra_deliveries += fresh - wanted;
        deliveries_awaited -= wanted;
    } else {
        deliveries_awaited -= fresh;
    }
    consumer->received += fresh;
}

/* Tells whether the response in the buffer is whole. */
static int response_is_whole(const struct publisher *publisher)
{
    const char *end = strstr(publisher->response, "\r\n\r\n");
    const char *field;
    size_t headers;
    if (end == NULL)
        return 0;
    headers = (size_t)(end - publisher->response) + 4;
    if (strncmp(publisher->response, "HTTP/1.1 2", 10) != 0)
        fail("a publish was refused: %s", publisher->response);
    field = strcasestr(publisher->response, "\r\ncontent-length:");
    if (field != NULL && field < end)
        return publisher->filled >= headers + strtoul(field + 17, NULL, 10);
    if (strcasestr(publisher->response, "\r\ntransfer-encoding: chunked") != NULL)
        return strstr(end, "\r\n0\r\n\r\n") != NULL;
    return 1;
}

static void read_publisher(struct publisher *publisher)
{
    ssize_t length = recv(publisher->socket, publisher->response + publisher->filled,
                          sizeof publisher->response - 1 - publisher->filled, 0);
    if (length <= 0)
        fail("the connection of a publisher ended");
    publisher->filled += (size_t)length;
    publisher->response[publisher->filled] = '\0';
    if (!publisher->pending)
        fail("a response that nobody asked for: %s", publisher->response);
    if (response_is_whole(publisher)) {
        publisher->pending = 0;
        publisher->filled = 0;
        responses_awaited--;
    } else if (publisher->filled == sizeof publisher->response - 1) {
        fail("a response of a publish is too long");
    }
}

/* Reads what has come, or waits for it until the deadline. */
static void read_ready(double deadline)
{
    struct epoll_event events[EVENTS_PER_WAIT];
    double left = deadline - now_seconds();
    int count = left <= 0 ? 0 : epoll_wait(epoll_fd, events, EVENTS_PER_WAIT, (int)(left * 1e3) + 1);
    if (count < 0 && errno == EINTR)
        return;
    if (count < 0)
        fail("epoll_wait: %s", strerror(errno));
    if (count == 0)
        fail("timed out: %llu deliveries, %d responses and %d streams outstanding",
             (unsigned long long)deliveries_awaited, responses_awaited, headers_awaited);
    for (int i = 0; i < count; i++) {
        uint64_t number = events[i].data.u64;
        if (number < (uint64_t)options.consumers)
            read_consumer(&consumers[number]);
        else
            read_publisher(&publishers[number - (uint64_t)options.consumers]);
    }
}

static void open_consumers(void)
{
    char request[4096];
    int length = snprintf(request, sizeof request, "GET %s HTTP/1.1\r\nHost: %s:%d\r\n%s\r\n",
                          options.subscribe_path, options.host, options.port,
                          options.subscribe_headers);
    for (int i = 0; i < options.consumers; i++) {
        consumers[i].socket = connect_socket();
        headers_awaited++;
        watch(consumers[i].socket, (uint64_t)i);
        send_all(consumers[i].socket, request, (size_t)length);
        if ((i + 1) % CONNECT_BATCH == 0 || i + 1 == options.consumers) {
            double deadline = now_seconds() + options.timeout_seconds;
            while (headers_awaited > 0)
                read_ready(deadline);
        }
    }
}

static void open_publishers(void)
{
    for (int i = 0; i < options.burst; i++) {
        publishers[i].socket = connect_socket();
        watch(publishers[i].socket, (uint64_t)(options.consumers + i));
    }
}

static void publish(struct publisher *publisher, uint64_t number)
{
    char request[8192];
    int value_bytes = options.value_bytes;
    int length = snprintf(
        request, sizeof request - (size_t)value_bytes,
        "POST %s HTTP/1.1\r\nHost: %s:%d\r\n%sContent-Length: %zu\r\n\r\n%s", options.publish_path,
        options.host, options.port, options.publish_headers,
        strlen(options.body_prefix) + (size_t)value_bytes, options.body_prefix);
    char digits[21];
    int digit_count = snprintf(digits, sizeof digits, "%020llu", (unsigned long long)number);
    memset(request + length, 'x', (size_t)value_bytes);
    memcpy(request + length, digits, (size_t)digit_count);
    request[length + value_bytes - 1] = MARKER;
    publisher->pending = 1;
    send_all(publisher->socket, request, (size_t)(length + value_bytes));
}

/* Publishes one burst and returns the seconds until every consumer had all of it. */
static double run_burst(uint64_t first_number)
{
    double start = now_seconds();
    double deadline = start + options.timeout_seconds;
    double delivered;
    target += (uint64_t)options.burst;
    deliveries_awaited = (uint64_t)options.consumers * (uint64_t)options.burst;
    responses_awaited = options.burst;
    for (int i = 0; i < options.burst; i++)
        publish(&publishers[i], first_number + (uint64_t)i);
    while (deliveries_awaited > 0)
        read_ready(deadline);
    delivered = now_seconds() - start;
    while (responses_awaited > 0)
        read_ready(deadline);
    return delivered;
}

/* Publishes one message after the other, waiting only for the answers, and then for the rest. */
static size_t run_flow(uint64_t first_number, double seconds)
{
    double start = now_seconds();
    double deadline = start + seconds + options.timeout_seconds;
    size_t messages = 0;
    while (now_seconds() - start < seconds) {
        target++;
        deliveries_awaited += (uint64_t)options.consumers;
        responses_awaited = 1;
        publish(&publishers[0], first_number + messages++);
        while (responses_awaited > 0)
            read_ready(deadline);
    }
    while (deliveries_awaited > 0)
        read_ready(deadline);
    return messages;
}

static void measure_flow(void)
{
    double start, elapsed, cpu, deliveries;
    size_t messages = run_flow(1, options.seconds / 5) + 1;
    cpu = cpu_seconds();
    start = now_seconds();
    messages = run_flow(messages, options.seconds);
    elapsed = now_seconds() - start;
    deliveries = (double)messages * options.consumers;
    printf("{\"messages\": %zu, \"deliveries\": %.0f, \"seconds\": %.3f, "
           "\"deliveries_per_second\": %.1f, \"messages_per_second\": %.1f, "
           "\"extra_deliveries\": %llu, \"client_cpu_share\": %.3f}\n",
           messages, deliveries, elapsed, deliveries / elapsed, (double)messages / elapsed,
           (unsigned long long)extra_deliveries, (cpu_seconds() - cpu) / elapsed);
}

static int compare_doubles(const void *left, const void *right)
{
    double a = *(const double *)left, b = *(const double *)right;
    return (a > b) - (a < b);
}

static void measure(void)
{
    size_t capacity = 1024, bursts = 0;
    double *latencies = malloc(capacity * sizeof *latencies);
    double start, elapsed, cpu;
    uint64_t number = 1;
    for (int i = 0; i < options.warmup_bursts; i++, number += (uint64_t)options.burst)
        run_burst(number);
    cpu = cpu_seconds();
    start = now_seconds();
    do {
        if (bursts == capacity)
            latencies = realloc(latencies, (capacity *= 2) * sizeof *latencies);
        if (latencies == NULL)
            fail("out of memory");
        latencies[bursts++] = run_burst(number);
        number += (uint64_t)options.burst;
        elapsed = now_seconds() - start;
    } while (elapsed < options.seconds);
    cpu = cpu_seconds() - cpu;
    qsort(latencies, bursts, sizeof *latencies, compare_doubles);
    printf("{\"bursts\": %zu, \"messages\": %zu, \"deliveries\": %zu, \"seconds\": %.3f, "
           "\"deliveries_per_second\": %.1f, \"latency_p50_ms\": %.3f, \"latency_p99_ms\": %.3f, "
           "\"extra_deliveries\": %llu, \"client_cpu_share\": %.3f}\n",
           bursts, bursts * (size_t)options.burst,
           bursts * (size_t)options.burst * (size_t)options.consumers, elapsed,
           (double)(bursts * (size_t)options.burst * (size_t)options.consumers) / elapsed,
           latencies[bursts / 2] * 1e3, latencies[(bursts * 99) / 100] * 1e3,
           (unsigned long long)extra_deliveries, cpu / elapsed);
    free(latencies);
}

static void add_header(char *headers, const char *header)
{
    if (strlen(headers) + strlen(header) + 3 > EXTRA_HEADERS_BYTES)
        fail("too many headers");
    strcat(headers, header);
    strcat(headers, "\r\n");
}

static void read_options(int argc, char **argv)
{
    static const struct option known[] = {
        {"host", required_argument, NULL, 'h'},
        {"port", required_argument, NULL, 'p'},
        {"subscribe-path", required_argument, NULL, 's'},
        {"subscribe-header", required_argument, NULL, 'S'},
        {"publish-path", required_argument, NULL, 'u'},
        {"publish-header", required_argument, NULL, 'U'},
        {"body-prefix", required_argument, NULL, 'b'},
        {"consumers", required_argument, NULL, 'c'},
        {"burst", required_argument, NULL, 'B'},
        {"value-bytes", required_argument, NULL, 'v'},
        {"warmup-bursts", required_argument, NULL, 'w'},
        {"flow", no_argument, NULL, 'F'},
        {"seconds", required_argument, NULL, 't'},
        {"timeout-seconds", required_argument, NULL, 'T'},
        {NULL, 0, NULL, 0},
    };
    int option;
    while ((option = getopt_long(argc, argv, "", known, NULL)) != -1) {
        switch (option) {
        case 'h': options.host = optarg; break;
        case 'p': options.port = atoi(optarg); break;
        case 's': options.subscribe_path = optarg; break;
        case 'S': add_header(options.subscribe_headers, optarg); break;
        case 'u': options.publish_path = optarg; break;
        case 'U': add_header(options.publish_headers, optarg); break;
        case 'b': options.body_prefix = optarg; break;
        case 'c': options.consumers = atoi(optarg); break;
        case 'B': options.burst = atoi(optarg); break;
        case 'v': options.value_bytes = atoi(optarg); break;
        case 'w': options.warmup_bursts = atoi(optarg); break;
        case 'F': options.flow = 1; break;
        case 't': options.seconds = atof(optarg); break;
        case 'T': options.timeout_seconds = atof(optarg); break;
        default: exit(2);
        }
    }
    if (options.port <= 0 || options.subscribe_path == NULL || options.publish_path == NULL
        || options.consumers < 1 || options.burst < 1 || options.value_bytes < 21
        || options.value_bytes > 4096)
        fail("--port, --subscribe-path and --publish-path are needed; --value-bytes is 21 to 4096");
}

int main(int argc, char **argv)
{
    read_options(argc, argv);
    consumers = calloc((size_t)options.consumers, sizeof *consumers);
    publishers = calloc((size_t)options.burst, sizeof *publishers);
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (consumers == NULL || publishers == NULL || epoll_fd < 0)
        fail("cannot set up: %s", strerror(errno));
    open_consumers();
    open_publishers();
    if (options.flow)
        measure_flow();
    else
        measure();
    return 0;
}

// SPDX-License-Identifier: GPL-2.0-or-later
//
// The receiving side of a multifd migration, in one file, written from the chapters of spec/.
//
//     cc -std=c11 -Wall -Wextra -Werror -O2 -pthread -o example-receiver receiver.c
//     ./example-receiver --port 4444 --channels 2 --uuid UUID --memory FILE
//
// FILE is the guest's memory: its size is that of the one RAM block, and what is migrated arrives
// in it. Exit status 0 says that the migration has completed; otherwise it is 1, with the reason
// on standard error. Not there: compression, TLS, device state, postcopy, several RAM blocks, pages
// of another size than 4 KiB, deadlines behind the init message, and the loading of devices.

#define _DEFAULT_SOURCE
#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum {
    MAGIC = 0x11223344, VERSION = 1, PAGE = 4096, PAGE_COUNT = 524288 / PAGE,
    SYNC = 0x01, METHODS = 0x3e, DEVICE_STATE = 0x40,                       // flags of packets
    ZERO = 0x002, MEM_SIZE = 0x004, EOS = 0x010, CONTINUE = 0x020, FLUSH = 0x200,  // of words
    STREAM_END = 0, START = 1, PART = 2, END = 3, DESCRIPTION = 6, CONFIGURATION = 7,
    COMMAND = 8, FOOTER = 0x7e,                                             // records
    OPEN_RETURN_PATH = 1, PING = 2, SWITCHOVER_START = 11,                  // commands
    SHUT = 1, PONG = 2,                                                     // answers
    WAITING = 300, INIT_SECONDS = 10, MAX_DESCRIPTION = 16 << 20,
};

struct init {
    uint32_t magic, version;
    uint8_t uuid[16], id, unused[39];
};

struct packet {
    uint32_t magic, version, flags, pages_alloc, normal_pages, next_packet_size;
    uint64_t packet_num;
    uint32_t zero_pages, unused[7];
    char ramblock[256];
    uint64_t offset[PAGE_COUNT];
};

_Static_assert(sizeof(struct init) == 64, "as chapter 3 has it");
_Static_assert(sizeof(struct packet) == 320 + 8 * PAGE_COUNT, "as chapter 4 has it");

// What we are configured for.
static unsigned n_channels = 2, release = 1101;     // 11.1
static uint8_t uuid[16];
static const char *block = "ram0";
static uint8_t *memory;
static uint64_t memory_size;

// What the threads share.
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static struct channel { int fd; unsigned id; bool parked, ended; } channels[255];
static uint64_t rounds;                 // marks that were met
static _Atomic bool listed;                // the main stream has named the RAM block
static _Atomic int answers = -1;        // where answers go, if the source wants some

// ---- failing ------------------------------------------------------------------------------------

static void answer(uint16_t type, uint32_t value)
{
    struct { uint16_t type, length; uint32_t value; } message = {
        htobe16(type), htobe16(sizeof value), htobe32(value)};
    if (answers >= 0 && write(answers, &message, sizeof message) < 0)
        answers = -1;                   // the source is gone, which shows elsewhere
}

// A failed connection fails them all (CHAN-12) and nobody is left waiting (CHAN-13): we exit.
__attribute__((format(printf, 1, 2))) _Noreturn static void fail(const char *format, ...)
{
    static pthread_mutex_t first = PTHREAD_MUTEX_INITIALIZER;
    pthread_mutex_lock(&first);         // never let go: later errors are echoes of the first
    va_list arguments;
    va_start(arguments, format);
    fputs("receiver: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    answer(SHUT, 1);
    _exit(1);
}

// A name out of the stream, as it may be shown.
static const char *printable(char *name)
{
    for (char *c = name; *c; c++)
        if (*c < ' ' || *c > '~')
            *c = '?';
    return name;
}

static bool is_page(uint64_t offset)
{
    return offset <= memory_size && memory_size - offset >= PAGE;
}

// ---- channels -----------------------------------------------------------------------------------

// Read as many bytes as there are, up to `length`. A reset is an end like any other.
static size_t read_all(int fd, void *to, size_t length)
{
    size_t done = 0;
    while (done < length) {
        ssize_t n = recv(fd, (char *)to + done, length - done, 0);
        if (n <= 0 && (n == 0 || errno != EINTR))
            break;
        done += n > 0 ? n : 0;
    }
    return done;
}

static void read_part(const struct channel *channel, void *to, size_t length, const char *what)
{
    size_t done = read_all(channel->fd, to, length);
    if (done < length)
        fail("channel %u: ended inside %s, after %zu of %zu bytes", channel->id, what, done, length);
}

// The checks of chapter 4, in its order. It leaves the numbers in our byte order.
static void check(unsigned id, struct packet *p)
{
    uint32_t alloc = be32toh(p->pages_alloc), normal = be32toh(p->normal_pages);
    uint32_t zero = release < 900 ? 0 : be32toh(p->zero_pages);     // reserved before 9.0
    if (alloc > PAGE_COUNT)
        fail("channel %u: pages_alloc is %u, must be at most %u", id, alloc, PAGE_COUNT);
    if (normal > alloc)
        fail("channel %u: normal_pages is %u, must be at most %u", id, normal, alloc);
    if (zero > alloc - normal)
        fail("channel %u: zero_pages is %u, must be at most %u", id, zero, alloc - normal);
    p->normal_pages = normal;
    p->zero_pages = zero;
    if (normal + zero == 0)
        return;                         // the rest of it means nothing (PKT-29)
    p->ramblock[sizeof p->ramblock - 1] = 0;
    if (strcmp(p->ramblock, block))
        fail("channel %u: RAM block is \"%s\", must be \"%s\"", id, printable(p->ramblock), block);
    if (!listed)
        fail("channel %u: pages before the main stream has listed the RAM blocks", id);
    for (uint32_t i = 0; i < normal + zero; i++) {
        p->offset[i] = be64toh(p->offset[i]);
        if (!is_page(p->offset[i]))
            fail("channel %u: offset is 0x%llx, must be that of a page within 0x%llx bytes", id,
                 (unsigned long long)p->offset[i], (unsigned long long)memory_size);
    }
    if (p->flags & METHODS)
        fail("channel %u: payload method is 0x%x, must be 0", id, p->flags & METHODS);
}

static void load_pages(const struct channel *channel, const struct packet *p)
{
    for (uint32_t i = 0; i < p->normal_pages; i++)
        read_part(channel, memory + p->offset[i], PAGE, "a payload");
    for (uint32_t i = p->normal_pages; i < p->normal_pages + p->zero_pages; i++)
        memset(memory + p->offset[i], 0, PAGE);
}

// Read no more until the main loader has met the mark of this round (SYNC-11).
static void park(struct channel *channel)
{
    pthread_mutex_lock(&lock);
    uint64_t round = rounds;
    channel->parked = true;
    pthread_cond_broadcast(&changed);
    while (rounds == round)
        pthread_cond_wait(&changed, &lock);
    pthread_mutex_unlock(&lock);
}

static void *run_channel(void *argument)
{
    struct channel *channel = argument;
    struct packet p;
    size_t got, head = offsetof(struct packet, pages_alloc);
    while ((got = read_all(channel->fd, &p, head)) == head) {
        if (be32toh(p.magic) != MAGIC || be32toh(p.version) != VERSION)
            fail("channel %u: packet is 0x%x of version %u, must be 0x%x of version %u",
                 channel->id, be32toh(p.magic), be32toh(p.version), MAGIC, VERSION);
        p.flags = be32toh(p.flags);
        if (p.flags & DEVICE_STATE && release >= 1000)
            fail("channel %u: device state cannot be loaded", channel->id);
        read_part(channel, (char *)&p + head, sizeof p - head, "a packet");
        check(channel->id, &p);
        load_pages(channel, &p);
        if (p.flags & SYNC)
            park(channel);
    }
    if (got)
        fail("channel %u: ended inside a packet, after %zu of %zu bytes", channel->id, got, sizeof p);
    pthread_mutex_lock(&lock);
    channel->ended = true;              // in order, unless a mark is still to come (CHAN-10)
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
    return NULL;
}

// ---- the main stream ----------------------------------------------------------------------------

static FILE *in;

static uint64_t number(unsigned bytes)
{
    uint64_t value = 0;
    while (bytes--) {
        int byte = getc(in);
        if (byte == EOF)
            fail("main stream: ended before the memory was complete");
        value = value << 8 | byte;
    }
    return value;
}

static void skip(uint64_t length)
{
    while (length--)
        number(1);
}

static void demand(const char *what, uint64_t seen, uint64_t must)
{
    if (seen != must)
        fail("main stream: %s is 0x%llx, must be 0x%llx", what, (unsigned long long)seen,
             (unsigned long long)must);
}

static void demand_name(const char *what, const char *must)
{
    char seen[256] = {0};
    size_t length = number(1);
    for (size_t i = 0; i < length; i++)
        seen[i] = number(1);
    if (length != strlen(must) || strcmp(seen, must))
        fail("main stream: %s is \"%s\", must be \"%s\"", what, printable(seen), must);
}

// Wait until every channel has come to its SYNC packet, then let them all go on (SYNC-10).
static void meet_mark(void)
{
    pthread_mutex_lock(&lock);
    for (unsigned i = 0; i < n_channels; i++)
        while (!channels[i].parked) {
            if (channels[i].ended)      // it would be waited for in vain (SYNC-13)
                fail("channel %u: ended before its SYNC packet %llu", i, (unsigned long long)rounds);
            pthread_cond_wait(&changed, &lock);
        }
    for (unsigned i = 0; i < n_channels; i++)
        channels[i].parked = false;
    rounds++;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
}

static void read_block_list(uint64_t total)
{
    demand("size of all RAM blocks", total, memory_size);
    demand_name("RAM block", block);
    demand("used length of the RAM block", number(8), memory_size);
    listed = true;
}

static void read_zero_page(uint64_t offset, bool same_block)
{
    if (!same_block)
        demand_name("RAM block", block);        // there is but one to be the same as
    demand("fill byte of a zero page", number(1), 0);
    if (!is_page(offset))
        fail("main stream: zero page at 0x%llx, must be within 0x%llx bytes",
             (unsigned long long)offset, (unsigned long long)memory_size);
    memset(memory + offset, 0, PAGE);
}

// The words of a START, PART or END of the section ram, and its footer.
static void read_section(uint64_t id)
{
    bool modern = release >= 801;
    for (bool ended = false; !ended;) {
        uint64_t word = number(8), flags = word % PAGE, offset = word - flags;
        ended = flags == EOS;
        if (flags == MEM_SIZE && !listed)
            read_block_list(offset);
        else if (!listed)
            fail("main stream: word of flags 0x%llx before the list of RAM blocks",
                 (unsigned long long)flags);
        else if (flags == ZERO || flags == (ZERO | CONTINUE))
            read_zero_page(offset, flags & CONTINUE);
        else if (flags == (modern ? FLUSH : EOS))       // older machine types mark with EOS
            meet_mark();
        else if (!ended)
            fail("main stream: word of flags 0x%llx in ram", (unsigned long long)flags);
    }
    demand("footer", number(1), FOOTER);
    demand("section id of the footer", number(4), id);
}

static void run_command(void)
{
    uint16_t command = number(2), length = number(2);
    if (command == OPEN_RETURN_PATH)
        answers = fileno(in);
    else if (command == PING && length == 4) {
        answer(PONG, number(4));
        length = 0;
    } else if (command != SWITCHOVER_START)
        fail("main stream: command %u cannot be run", command);
    skip(length);
}

static uint64_t start_ram(void)
{
    uint64_t id = number(4);
    demand_name("first section", "ram");
    demand("instance of ram", number(4), 0);
    demand("version of ram", number(4), 4);
    return id;
}

// What follows is the devices', and cannot be skipped: their data have no length. The stream ends
// with the description of them all, or where the source ends it.
static void drain(void)
{
    uint64_t window = 0, left = 0;      // the last 8 bytes; bytes of the description to come
    int byte, last = EOF;
    while ((byte = getc(in)) != EOF) {
        last = byte;
        window = window << 8 | byte;
        uint32_t length = window >> 8;
        if (left && !--left && byte == '}')
            return;
        if (!left && (window >> 40 & 0xffff) == (STREAM_END << 8 | DESCRIPTION) && byte == '{' &&
            length > 1 && length < MAX_DESCRIPTION)
            left = length - 1;
    }
    if (last != STREAM_END)
        fail("main stream: ended inside the devices");
}

static void *run_main(void *unused)
{
    uint64_t ram = 0;
    unsigned type = START;
    demand("version of the stream", number(4), 3);
    while (type != END) {
        type = number(1);
        if (type == CONFIGURATION)
            skip(number(4));            // the machine type: any that has our memory will do
        else if (type == COMMAND)
            run_command();
        else if (type == START && !listed)
            read_section(ram = start_ram());
        else if ((type == PART || type == END) && listed) {
            demand("section id", number(4), ram);
            read_section(ram);
        } else
            fail("main stream: record of type %u before the memory was complete", type);
    }
    drain();
    answer(SHUT, 0);
    printf("receiver: completed after %llu rounds\n", (unsigned long long)rounds);
    fflush(stdout);
    _exit(0);
    return unused;
}

// ---- connections --------------------------------------------------------------------------------

// Connections of which it is not yet known what they are.
static struct waiting { int fd; size_t got; time_t deadline; struct init init; } waiting[WAITING];
static unsigned n_waiting, n_ready;

static void start(void *(*run)(void *), void *argument)
{
    pthread_t thread;
    int error = pthread_create(&thread, NULL, run, argument);
    if (error)
        fail("no thread: %s", strerror(error));
    pthread_detach(thread);
}

// The checks of chapter 3, in its order.
static void open_channel(int fd, const struct init *init)
{
    if (be32toh(init->version) != VERSION)
        fail("init: version is %u, must be %u", be32toh(init->version), VERSION);
    if (memcmp(init->uuid, uuid, sizeof uuid))
        fail("init: uuid is not that of this machine");
    if (init->id >= n_channels)
        fail("init: id is %u, must be below %u", init->id, n_channels);
    struct channel *channel = &channels[init->id];
    if (channel->fd)
        fail("init: id is %u, which is in use", init->id);
    *channel = (struct channel){.fd = fd, .id = init->id};
    n_ready++;
    start(run_channel, channel);
}

// Take what a connection has to say. True: it has not said all.
static bool advance(struct waiting *w)
{
    size_t want = w->got < 4 ? 4 : sizeof w->init;
    ssize_t n = recv(w->fd, (char *)&w->init + w->got, want - w->got, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return true;
    if (n <= 0 && w->got >= 4)
        fail("init: ended after %zu of %zu bytes", w->got, sizeof w->init);
    w->got += n > 0 ? n : 0;
    bool is_main = w->got == 4 && !memcmp(&w->init, "QEVM", 4);
    if (is_main && !in) {
        in = fdopen(w->fd, "r");
        return false;
    }
    if (n <= 0 || is_main || (w->got >= 4 && be32toh(w->init.magic) != MAGIC)) {
        close(w->fd);                   // a port scan, or whatever it was (CHAN-6)
        return false;
    }
    if (w->got < sizeof w->init)
        return true;
    open_channel(w->fd, &w->init);
    return false;
}

static time_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec;
}

// Until all are there. A connection that says nothing keeps nobody waiting (CHAN-7).
static void accept_all(int listener)
{
    while (!in || n_ready < n_channels) {
        struct pollfd polls[1 + WAITING];
        unsigned polled = n_waiting;
        // who finds the room full waits in the backlog
        polls[0] = (struct pollfd){.fd = polled < WAITING ? listener : -1, .events = POLLIN};
        for (unsigned i = 0; i < polled; i++)
            polls[1 + i] = (struct pollfd){.fd = waiting[i].fd, .events = POLLIN};
        poll(polls, 1 + polled, 1000);
        for (unsigned i = polled; i-- > 0;) {
            bool stays = !polls[1 + i].revents || advance(&waiting[i]);
            if (stays && now() > waiting[i].deadline) {
                close(waiting[i].fd);
                stays = false;
            }
            if (!stays)
                waiting[i] = waiting[--n_waiting];
        }
        int fd = polls[0].revents > 0 ? accept(listener, NULL, NULL) : -1;
        if (fd >= 0)
            waiting[n_waiting++] = (struct waiting){.fd = fd, .deadline = now() + INIT_SECONDS};
    }
}

static int listen_on(unsigned port)
{
    struct sockaddr_in place = {.sin_family = AF_INET, .sin_port = htons(port)};
    place.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof place;
    int listener = socket(AF_INET, SOCK_STREAM, 0), yes = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (bind(listener, (struct sockaddr *)&place, length) || listen(listener, SOMAXCONN) ||
        getsockname(listener, (struct sockaddr *)&place, &length))
        fail("port %u: %s", port, strerror(errno));
    printf("receiver: listens on port %u\n", ntohs(place.sin_port));
    fflush(stdout);
    return listener;
}

// ---- options ------------------------------------------------------------------------------------

static void map_memory(const char *path)
{
    int fd = open(path, O_RDWR);
    struct stat status;
    if (fd < 0 || fstat(fd, &status))
        fail("%s: %s", path, strerror(errno));
    memory_size = status.st_size;
    memory = mmap(NULL, memory_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED)
        fail("%s: %s", path, strerror(errno));
    close(fd);
}

static void read_uuid(const char *text)
{
    for (unsigned i = 0; i < sizeof uuid; i++, text += 2) {
        text += *text == '-';
        if (sscanf(text, "%2hhx", &uuid[i]) != 1)
            fail("--uuid must be 32 hexadecimal digits");
    }
}

static unsigned read_number(const char *name, const char *text, unsigned most)
{
    unsigned value;
    if (sscanf(text, "%u", &value) != 1 || value > most)
        fail("--%s is \"%s\", must be at most %u", name, text, most);
    return value;
}

static unsigned read_release(const char *text)
{
    unsigned major, minor;
    if (sscanf(text, "%2u.%2u", &major, &minor) != 2)
        fail("--dialect is \"%s\", must be a QEMU release such as 10.0", text);
    return major * 100 + minor;
}

int main(int argc, char **argv)
{
    static const struct option options[] = {
        {"port", 1, NULL, 'p'}, {"channels", 1, NULL, 'c'}, {"uuid", 1, NULL, 'u'},
        {"memory", 1, NULL, 'm'}, {"block", 1, NULL, 'b'}, {"dialect", 1, NULL, 'd'}, {0},
    };
    unsigned port = 0;                  // any that is free
    signal(SIGPIPE, SIG_IGN);
    for (int option; (option = getopt_long(argc, argv, "", options, NULL)) != -1;)
        switch (option) {
        case 'p': port = read_number("port", optarg, 65535); break;
        case 'c': n_channels = read_number("channels", optarg, 255); break;
        case 'u': read_uuid(optarg); break;
        case 'm': map_memory(optarg); break;
        case 'b': block = optarg; break;
        case 'd': release = read_release(optarg); break;
        default: return 1;              // getopt has said why
        }
    if (!memory || optind < argc)
        fail("usage: --memory FILE [--port N] [--channels N] [--uuid UUID] [--block NAME] "
             "[--dialect RELEASE]");
    int listener = listen_on(port);
    accept_all(listener);
    start(run_main, NULL);              // not before all channels are there (CHAN-8)
    for (int fd;;)                      // those beyond them are closed (CHAN-9)
        if ((fd = accept(listener, NULL, NULL)) >= 0)
            close(fd);
}

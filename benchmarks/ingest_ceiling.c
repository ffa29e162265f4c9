/* The least a receiver can do, one process for each association: what the machine allows at most (`benchmarks.ingest`).
 *
 *     ingest_ceiling PORT read|keep FOLDER
 *
 * `read` takes every byte of a film from the network and answers, and leaves a file of that length without contents. `keep` also
 * writes the film past the page cache and flushes file and folder before it answers. Neither looks into a film, makes it out from
 * others, records it, bounds what is sent, or would survive a peer that lies: it is a yardstick, and no receiver.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define FILM_BYTES (16u << 20)
#define BLOCK_BYTES 4096u
#define PDU_BYTES 131072u

static const char *folder;
static int keeps;

static uint32_t big(const uint8_t *at, int bytes) {
    uint32_t value = 0;
    for (int i = 0; i < bytes; i++) value = value << 8 | at[i];
    return value;
}

static void put_big(uint8_t *at, uint32_t value, int bytes) {
    for (int i = bytes - 1; i >= 0; i--, value >>= 8) at[i] = (uint8_t)value;
}

static void take(int connection, void *into, size_t bytes) {
    if (bytes && recv(connection, into, bytes, MSG_WAITALL) != (ssize_t)bytes) _exit(0);
}

static void give(int connection, const uint8_t *from, size_t bytes) {
    for (ssize_t sent; bytes; from += sent, bytes -= (size_t)sent)
        if ((sent = send(connection, from, bytes, 0)) <= 0) _exit(1);
}

/* Write an item of the upper layer: type, length, value (PS3.8 9.3.2). */
static size_t item(uint8_t *at, uint8_t type, const void *value, size_t bytes) {
    at[0] = type, at[1] = 0;
    put_big(at + 2, (uint32_t)bytes, 2);
    memmove(at + 4, value, bytes);
    return 4 + bytes;
}

/* Accept every presentation context in its first transfer syntax (PS3.8 9.3.3). */
static void associate(int connection, const uint8_t *asked, size_t bytes) {
    static uint8_t answer[1 << 16];
    memcpy(answer, asked, 74);
    size_t end = 74 + item(answer + 74, 0x10, "1.2.840.10008.3.1.1.1", 21);
    for (size_t at = 74; at + 4 <= bytes; at += 4 + big(asked + at + 2, 2)) {
        if (asked[at] != 0x20) continue;
        size_t inner = at + 8;
        while (asked[inner] != 0x40) inner += 4 + big(asked + inner + 2, 2);
        uint8_t body[256] = {asked[at + 4], 0, 0, 0};
        size_t length = 4 + item(body + 4, 0x40, asked + inner + 4, big(asked + inner + 2, 2));
        end += item(answer + end, 0x21, body, length);
    }
    uint8_t longest[4], user[64];
    put_big(longest, PDU_BYTES, 4);
    size_t length = item(user, 0x51, longest, 4);
    length += item(user + length, 0x52, "2.25.1", 6);
    end += item(answer + end, 0x50, user, length);
    answer[0] = 2;
    put_big(answer + 2, (uint32_t)end - 6, 4);
    give(connection, answer, end);
}

/* Write an element of a command, implicit VR little endian (PS3.7 6.3.1); this machine is little endian. */
static size_t element(uint8_t *at, uint16_t number, const void *value, uint32_t bytes) {
    memset(at, 0, 2);
    memcpy(at + 2, &number, 2);
    memcpy(at + 4, &bytes, 4);
    memcpy(at + 8, value, bytes);
    return 8 + bytes;
}

/* Answer a C-STORE request with success (PS3.7 9.3.1.2). */
static void respond(int connection, uint8_t context, const uint8_t *request, size_t bytes) {
    uint8_t pdu[1024], *command = pdu + 12, *body = command + 12;
    const uint16_t response = 0x8001, no_data_set = 0x0101, success = 0;
    size_t length = 0;
    for (size_t at = 0; at + 8 <= bytes;) {
        uint16_t number;
        uint32_t size;
        memcpy(&number, request + at + 2, 2);
        memcpy(&size, request + at + 4, 4);
        if (number == 0x0002) {
            length += element(body + length, number, request + at + 8, size);
            length += element(body + length, 0x0100, &response, 2);
        } else if (number == 0x0110) {
            length += element(body + length, 0x0120, request + at + 8, 2);
            length += element(body + length, 0x0800, &no_data_set, 2);
            length += element(body + length, 0x0900, &success, 2);
        } else if (number == 0x1000) {
            length += element(body + length, number, request + at + 8, size);
        }
        at += 8 + size;
    }
    uint32_t group = (uint32_t)length;
    length += element(command, 0x0000, &group, 4);
    memcpy(pdu, "\4\0", 2);
    put_big(pdu + 2, (uint32_t)length + 6, 4);
    put_big(pdu + 6, (uint32_t)length + 2, 4);
    pdu[10] = context, pdu[11] = 3;
    give(connection, pdu, length + 12);
}

static void keep(const uint8_t *film, size_t bytes) {
    static long number;
    char path[4096];
    snprintf(path, sizeof path, "%s/%d-%ld.dcm", folder, (int)getpid(), number++);
    int file = open(path, O_WRONLY | O_CREAT | O_EXCL | (keeps ? O_DIRECT : 0), 0600);
    size_t whole = keeps ? (bytes + BLOCK_BYTES - 1) / BLOCK_BYTES * BLOCK_BYTES : 0;
    if (file < 0 || write(file, film, whole) != (ssize_t)whole || ftruncate(file, (off_t)bytes)) _exit(1);
    if (keeps) {
        int names = open(folder, O_RDONLY | O_DIRECTORY);
        if (fsync(file) || fsync(names)) _exit(1);
        close(names);
    }
    close(file);
}

static void serve(int connection) {
    static uint8_t request[4096];
    uint8_t head[6];
    size_t filled = 0, asked = 0;
    uint8_t *film = mmap(NULL, FILM_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (film == MAP_FAILED) _exit(1);
    madvise(film, FILM_BYTES, MADV_HUGEPAGE);
    for (;;) {
        take(connection, head, 6);
        uint32_t left = big(head + 2, 4);
        if (head[0] == 1) {
            memcpy(film, head, 6);
            take(connection, film + 6, left);
            associate(connection, film, left + 6);
            continue;
        }
        if (head[0] == 5) give(connection, (const uint8_t *)"\6\0\0\0\0\4\0\0\0\0", 10);
        if (head[0] != 4) _exit(0);
        while (left) {
            take(connection, head, 6);
            uint32_t bytes = big(head, 4) - 2;
            left -= bytes + 6;
            if (head[5] & 1) {
                if (asked + bytes > sizeof request) _exit(1);
                take(connection, request + asked, bytes);
                asked += bytes;
                continue;
            }
            if (filled + bytes > FILM_BYTES) _exit(1);
            take(connection, film + filled, bytes);
            filled += bytes;
            if (head[5] & 2) {
                keep(film, filled);
                respond(connection, head[4], request, asked);
                filled = asked = 0;
            }
        }
    }
}

static void bury(int number) {
    (void)number;
    while (waitpid(-1, NULL, WNOHANG) > 0) {}
}

int main(int count, char **words) {
    if (count != 4) return 2;
    keeps = !strcmp(words[2], "keep");
    folder = words[3];
    struct sigaction burial = {.sa_handler = bury, .sa_flags = SA_RESTART};
    sigaction(SIGCHLD, &burial, NULL);
    int one = 1, listener = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(words[1]))};
    here.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (bind(listener, (struct sockaddr *)&here, sizeof here) || listen(listener, 128)) return 1;
    for (;;) {
        int connection = accept(listener, NULL, NULL);
        if (connection < 0) continue;
        setsockopt(connection, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        if (!fork()) serve(connection);
        close(connection);
    }
}

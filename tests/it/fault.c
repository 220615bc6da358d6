/* Preloaded into the real binary by tests that need a disk to fail: while a file of that name is
 * in the folder $FAULTS, fsync fails (fail_fsync) or takes 30 ms (slow_fsync), and writes to the
 * database's files find the disk full (disk_full). */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static int on(const char *fault) {
    char path[4096];
    const char *folder = getenv("FAULTS");
    if (!folder) return 0;
    snprintf(path, sizeof path, "%s/%s", folder, fault);
    return access(path, F_OK) == 0;
}

static int of_database(int fd) {
    char link[64], target[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, target, sizeof target - 1);
    if (length < 0) return 0;
    target[length] = 0;
    return strstr(target, ".db") != NULL;
}

static int no_space(int fd) {
    if (!on("disk_full") || !of_database(fd)) return 0;
    errno = ENOSPC;
    return 1;
}

int fsync(int fd) {
    if (on("slow_fsync")) nanosleep(&(struct timespec){0, 30000000}, NULL);
    if (on("fail_fsync") && of_database(fd)) {
        errno = EIO;
        return -1;
    }
    return syscall(SYS_fsync, fd);
}

int fdatasync(int fd) { return fsync(fd); }

ssize_t write(int fd, const void *bytes, size_t length) {
    return no_space(fd) ? -1 : syscall(SYS_write, fd, bytes, length);
}

ssize_t pwrite64(int fd, const void *bytes, size_t length, off64_t at) {
    return no_space(fd) ? -1 : syscall(SYS_pwrite64, fd, bytes, length, at);
}

ssize_t pwrite(int fd, const void *bytes, size_t length, off_t at) {
    return pwrite64(fd, bytes, length, at);
}

/* Preloaded into the real binary by tests that need a disk to fail, or to lose its power.
 *
 * While a file of that name is in the folder $FAULTS:
 *   slow_fsync      fsync takes 30 ms
 *   fail_fsync      fsync of the database's files fails
 *   fail_wal_fsync  fsync of the write-ahead log fails, that of the database itself does not
 *   hang_fsync      fsync of the database's files waits until the file is removed
 *   disk_full       writes to the database's files find the disk full
 *   no_growth       the same, but only of writes behind the end of a file
 *   trace           everything that changes the database's files is appended to it, one record for
 *                   each call; tests/it/power.rs reads it and makes of it what a power failure leaves
 *
 * A record is appended after its system call and before the function returns, so SQLite's own locks
 * keep the records of two threads or processes in the order of the calls. An fsync has a record
 * before and one after it: it covers what was written before it began. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

/* As in power.rs. */
enum kind { CREATED = 1, WRITTEN, TRUNCATED, SYNC_BEGUN, SYNCED, SYNC_FAILED, REMOVED, RENAMED };

static void path_of_fault(char path[PATH_MAX], const char *fault) {
    const char *folder = getenv("FAULTS");
    snprintf(path, PATH_MAX, "%s/%s", folder ? folder : "/nowhere", fault);
}

static int on(const char *fault) {
    char path[PATH_MAX];
    path_of_fault(path, fault);
    return access(path, F_OK) == 0;
}

static void pause_ms(long ms) { nanosleep(&(struct timespec){0, ms * 1000000}, NULL); }

/* The -shm is rebuilt at each start after a power failure: what is written there does not matter. */
static int is_of_database(const char *path) {
    return strstr(path, ".db") != NULL && strstr(path, "-shm") == NULL;
}

static int path_of(int fd, char path[PATH_MAX]) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    path[length < 0 ? 0 : length] = 0;
    return length >= 0;
}

static int of_database(int fd) {
    char path[PATH_MAX];
    return path_of(fd, path) && is_of_database(path);
}

static int of_log(int fd) {
    char path[PATH_MAX];
    return path_of(fd, path) && is_of_database(path) && strstr(path, "-wal") != NULL;
}

static void record(enum kind kind, uint64_t inode, uint64_t at, const char *path,
                   const void *bytes, size_t length) {
    int error = errno;
    char trace[PATH_MAX];
    path_of_fault(trace, "trace");
    int file = syscall(SYS_openat, AT_FDCWD, trace, O_WRONLY | O_APPEND | O_CLOEXEC, 0);
    if (file >= 0) {
        uint64_t head[] = {kind, syscall(SYS_gettid), inode, at, strlen(path), length};
        struct iovec parts[] = {
            {head, sizeof head}, {(void *)path, strlen(path)}, {(void *)bytes, length}};
        if (writev(file, parts, 3) < 0) abort();
        syscall(SYS_close, file);
    }
    errno = error;
}

/* A folder counts, too: its fsync makes names durable. */
static void record_of(int fd, enum kind kind, uint64_t at, const void *bytes, size_t length) {
    struct stat status;
    char path[PATH_MAX];
    int error = errno;
    if (on("trace") && fstat(fd, &status) == 0 && path_of(fd, path)
        && (S_ISDIR(status.st_mode) || (S_ISREG(status.st_mode) && is_of_database(path))))
        record(kind, status.st_ino, at, path, bytes, length);
    errno = error;
}

static int no_space(int fd) {
    if (!on("disk_full") || !of_database(fd)) return 0;
    errno = ENOSPC;
    return 1;
}

static int no_growth(int fd, off64_t end) {
    struct stat status;
    if (!on("no_growth") || !of_database(fd) || fstat(fd, &status) || end <= status.st_size)
        return 0;
    errno = ENOSPC;
    return 1;
}

static int sync_with(long call, int fd) {
    if (on("slow_fsync")) pause_ms(30);
    record_of(fd, SYNC_BEGUN, 0, "", 0);
    while (on("hang_fsync") && of_database(fd)) pause_ms(5);
    int result;
    if ((on("fail_fsync") && of_database(fd)) || (on("fail_wal_fsync") && of_log(fd))) {
        errno = EIO;
        result = -1;
    } else {
        result = syscall(call, fd);
    }
    record_of(fd, result == 0 ? SYNCED : SYNC_FAILED, 0, "", 0);
    return result;
}

int fsync(int fd) { return sync_with(SYS_fsync, fd); }

int fdatasync(int fd) { return sync_with(SYS_fdatasync, fd); }

ssize_t write(int fd, const void *bytes, size_t length) {
    if (no_space(fd)) return -1;
    ssize_t written = syscall(SYS_write, fd, bytes, length);
    if (written > 0) {
        off_t end = lseek(fd, 0, SEEK_CUR);
        if (end >= written) record_of(fd, WRITTEN, end - written, bytes, written);
    }
    return written;
}

ssize_t pwrite64(int fd, const void *bytes, size_t length, off64_t at) {
    if (no_space(fd) || no_growth(fd, at + (off64_t)length)) return -1;
    ssize_t written = syscall(SYS_pwrite64, fd, bytes, length, at);
    if (written > 0) record_of(fd, WRITTEN, at, bytes, written);
    return written;
}

ssize_t pwrite(int fd, const void *bytes, size_t length, off_t at) {
    return pwrite64(fd, bytes, length, at);
}

int ftruncate64(int fd, off64_t length) {
    int result = syscall(SYS_ftruncate, fd, length);
    if (result == 0) record_of(fd, TRUNCATED, length, "", 0);
    return result;
}

int ftruncate(int fd, off_t length) { return ftruncate64(fd, length); }

static int open_with(int folder, const char *path, int flags, mode_t mode) {
    int was_there = faccessat(folder, path, F_OK, 0) == 0;
    int fd = syscall(SYS_openat, folder, path, flags, mode);
    if (fd >= 0 && (flags & O_CREAT) && !was_there) record_of(fd, CREATED, 0, "", 0);
    if (fd >= 0 && (flags & O_TRUNC) && was_there) record_of(fd, TRUNCATED, 0, "", 0);
    return fd;
}

#define OPEN(folder, path, flags)                     \
    va_list more;                                     \
    va_start(more, flags);                            \
    mode_t mode = va_arg(more, mode_t);               \
    va_end(more);                                     \
    return open_with(folder, path, flags, mode)

int open(const char *path, int flags, ...) { OPEN(AT_FDCWD, path, flags); }
int open64(const char *path, int flags, ...) { OPEN(AT_FDCWD, path, flags); }
int openat(int folder, const char *path, int flags, ...) { OPEN(folder, path, flags); }
int openat64(int folder, const char *path, int flags, ...) { OPEN(folder, path, flags); }

/* The name itself, a symbolic link's too, in its real folder. */
static void real_name(const char *path, char name[PATH_MAX]) {
    char folder[PATH_MAX], copy[PATH_MAX], again[PATH_MAX];
    snprintf(copy, sizeof copy, "%s", path);
    snprintf(again, sizeof again, "%s", path);
    if (!realpath(dirname(copy), folder)) folder[0] = 0;
    strncat(folder, "/", sizeof folder - strlen(folder) - 1);
    strncat(folder, basename(again), sizeof folder - strlen(folder) - 1);
    strcpy(name, folder);
}

int unlink(const char *path) {
    char name[PATH_MAX];
    real_name(path, name);
    int result = syscall(SYS_unlinkat, AT_FDCWD, path, 0);
    if (result == 0 && is_of_database(name)) record(REMOVED, 0, 0, name, "", 0);
    return result;
}

int rename(const char *old, const char *new) {
    char from[PATH_MAX], to[PATH_MAX];
    real_name(old, from);
    real_name(new, to);
    int result = syscall(SYS_renameat2, AT_FDCWD, old, AT_FDCWD, new, 0);
    if (result == 0 && (is_of_database(from) || is_of_database(to)))
        record(RENAMED, 0, 0, from, to, strlen(to));
    return result;
}

/* Stands between a process and the C library, and counts its IO: preloaded, disarmed until shim_arm() is called.
 *
 * Counted are operations on regular files, devices and folders whose path begins with one of two prefixes, and those on
 * internet sockets. At the N-th of a chosen class the process is killed before or after the call, or in the
 * middle of a write, or the call fails, or a write is short. The count is of the whole process, whatever the thread:
 * unlike strace, whose counters are each thread's own.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { CHANGES = 1, READS = 2, OPENS = 4, SENDS = 8, RECEIVES = 16 };
enum { COUNT = 0, KILL_BEFORE = 1, KILL_AFTER = 2, TEAR = 3, FAIL = 4, SHORT = 5, FAIL_ON = 6 };

#define BLKZEROOUT 0x127F

static int armed, action, classes, number, report = -1;
static long nth;
static atomic_long seen;
static atomic_int fired;
static char first_prefix[PATH_MAX], second_prefix[PATH_MAX];

long shim_seen(void) { return atomic_load(&seen); }

void shim_arm(int what, long at, int which, int error, const char *first, const char *second, int report_to)
{
    action = what; nth = at; classes = which; number = error; report = report_to;
    snprintf(first_prefix, sizeof first_prefix, "%s", first);
    snprintf(second_prefix, sizeof second_prefix, "%s", second);
    atomic_store(&seen, 0);
    atomic_store(&fired, 0);
    armed = 1;
}

static int ours(const char *path)
{
    return (first_prefix[0] && !strncmp(path, first_prefix, strlen(first_prefix)))
        || (second_prefix[0] && !strncmp(path, second_prefix, strlen(second_prefix)));
}

static int descriptor_ours(int fd, char *path, size_t size)
{
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    long length = syscall(SYS_readlink, link, path, size - 1);
    if (length <= 0)
        return 0;
    path[length] = 0;
    return ours(path);
}

static int internet(int fd)
{
    struct sockaddr_storage name;
    socklen_t size = sizeof name;
    if (syscall(SYS_getsockname, fd, &name, &size))
        return 0;
    return name.ss_family == AF_INET || name.ss_family == AF_INET6;
}

static void tell(const char *call, const char *path, long at)
{
    char text[PATH_MAX + 100];
    int length = snprintf(text, sizeof text, "%s %ld %s\n", call, at, path);
    if (report >= 0)
        syscall(SYS_write, report, text, (size_t)length);
}

static void die(void) { syscall(SYS_kill, syscall(SYS_getpid), SIGKILL); for (;;) pause(); }

/* What to do with this operation: an action, or COUNT for nothing. */
static int decide(int class, const char *call, int fd, const char *given)
{
    char path[PATH_MAX] = "";
    if (!armed || !(classes & class))
        return COUNT;
    int saved = errno;
    int counts = given ? ours(given) : class >= SENDS ? internet(fd) : descriptor_ours(fd, path, sizeof path);
    errno = saved;
    if (!counts)
        return COUNT;
    long at = atomic_fetch_add(&seen, 1) + 1;
    if (action == COUNT || at < nth || (at > nth && action != FAIL_ON))
        return COUNT;
    if (!atomic_exchange(&fired, 1))
        tell(call, given ? given : class >= SENDS ? "socket" : path, at);
    if (action == KILL_BEFORE)
        die();
    return action;
}

static int fails(int what) { return what == FAIL || what == FAIL_ON; }

#define AFTER(what) do { if ((what) == KILL_AFTER || (what) == TEAR) die(); } while (0)
/* Only writes of bytes can be short. */
#define PLAIN(class, call, fd, path, real) do {                                   \
        int what = action == SHORT ? COUNT : decide(class, call, fd, path);        \
        if (fails(what)) { errno = number; return -1; }                            \
        long result = (real);                                                      \
        int saved = errno; AFTER(what); errno = saved;                             \
        return result;                                                             \
    } while (0)
/* Of a write of many bytes only the first half happens. */
#define WRITE(class, call, fd, size, real) do {                                   \
        int what = decide(class, call, fd, NULL);                                  \
        if (fails(what)) { errno = number; return -1; }                            \
        size_t length = (size);                                                    \
        if ((what == SHORT || what == TEAR) && length > 1) length /= 2;            \
        long result = (real);                                                      \
        int saved = errno; AFTER(what); errno = saved;                             \
        return result;                                                             \
    } while (0)

static int is_socket(int fd)
{
    struct stat status;
    return !fstat(fd, &status) && S_ISSOCK(status.st_mode);
}

ssize_t write(int fd, const void *data, size_t size)
{
    int class = armed && is_socket(fd) ? SENDS : CHANGES;
    WRITE(class, "write", fd, size, syscall(SYS_write, fd, data, length));
}
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at)
{ WRITE(CHANGES, "pwrite", fd, size, syscall(SYS_pwrite64, fd, data, length, at)); }
ssize_t pwrite(int fd, const void *data, size_t size, off_t at)
{ WRITE(CHANGES, "pwrite", fd, size, syscall(SYS_pwrite64, fd, data, length, at)); }
ssize_t pwritev64(int fd, const struct iovec *parts, int count, off64_t at)
{ PLAIN(CHANGES, "pwritev", fd, NULL, syscall(SYS_pwritev, fd, parts, count, at, 0)); }
ssize_t writev(int fd, const struct iovec *parts, int count)
{
    int class = armed && is_socket(fd) ? SENDS : CHANGES;
    PLAIN(class, "writev", fd, NULL, syscall(SYS_writev, fd, parts, count));
}
int fsync(int fd) { PLAIN(CHANGES, "fsync", fd, NULL, syscall(SYS_fsync, fd)); }
int fdatasync(int fd) { PLAIN(CHANGES, "fdatasync", fd, NULL, syscall(SYS_fdatasync, fd)); }
int ftruncate64(int fd, off64_t size) { PLAIN(CHANGES, "ftruncate", fd, NULL, syscall(SYS_ftruncate, fd, size)); }
int ftruncate(int fd, off_t size) { PLAIN(CHANGES, "ftruncate", fd, NULL, syscall(SYS_ftruncate, fd, size)); }
int fallocate(int fd, int mode, off_t at, off_t size)
{ PLAIN(CHANGES, "fallocate", fd, NULL, syscall(SYS_fallocate, fd, mode, at, size)); }
int fallocate64(int fd, int mode, off64_t at, off64_t size)
{ PLAIN(CHANGES, "fallocate", fd, NULL, syscall(SYS_fallocate, fd, mode, at, size)); }
int rename(const char *from, const char *to) { PLAIN(CHANGES, "rename", -1, from, syscall(SYS_rename, from, to)); }
int renameat(int from_folder, const char *from, int to_folder, const char *to)
{ PLAIN(CHANGES, "rename", -1, from, syscall(SYS_renameat, from_folder, from, to_folder, to)); }
int unlink(const char *path) { PLAIN(CHANGES, "unlink", -1, path, syscall(SYS_unlink, path)); }
int mkdir(const char *path, mode_t mode) { PLAIN(CHANGES, "mkdir", -1, path, syscall(SYS_mkdir, path, mode)); }
int flock(int fd, int operation) { PLAIN(OPENS, "flock", fd, NULL, syscall(SYS_flock, fd, operation)); }

static int opened(int folder, const char *path, int flags, mode_t mode)
{
    int class = flags & (O_CREAT | O_TRUNC) ? CHANGES : OPENS;
    PLAIN(class, "open", -1, path, syscall(SYS_openat, folder, path, flags, mode));
}
#define MODE(flags) mode_t mode = 0; \
    if ((flags) & (O_CREAT | O_TMPFILE)) { va_list list; va_start(list, flags); mode = va_arg(list, mode_t); va_end(list); }
int open64(const char *path, int flags, ...) { MODE(flags) return opened(AT_FDCWD, path, flags, mode); }
int open(const char *path, int flags, ...) { MODE(flags) return opened(AT_FDCWD, path, flags, mode); }
int openat64(int folder, const char *path, int flags, ...) { MODE(flags) return opened(folder, path, flags, mode); }
int openat(int folder, const char *path, int flags, ...) { MODE(flags) return opened(folder, path, flags, mode); }

ssize_t read(int fd, void *data, size_t size)
{
    int class = armed && is_socket(fd) ? RECEIVES : READS;
    PLAIN(class, "read", fd, NULL, syscall(SYS_read, fd, data, size));
}
ssize_t pread64(int fd, void *data, size_t size, off64_t at)
{ PLAIN(READS, "pread", fd, NULL, syscall(SYS_pread64, fd, data, size, at)); }
ssize_t preadv64(int fd, const struct iovec *parts, int count, off64_t at)
{ PLAIN(READS, "preadv", fd, NULL, syscall(SYS_preadv, fd, parts, count, at, 0)); }
ssize_t preadv64v2(int fd, const struct iovec *parts, int count, off64_t at, int flags)
{ PLAIN(READS, "preadv", fd, NULL, syscall(SYS_preadv2, fd, parts, count, at, 0, flags)); }

ssize_t send(int fd, const void *data, size_t size, int flags)
{ WRITE(SENDS, "send", fd, size, syscall(SYS_sendto, fd, data, length, flags, NULL, 0)); }
ssize_t sendto(int fd, const void *data, size_t size, int flags, const struct sockaddr *to, socklen_t to_size)
{ WRITE(SENDS, "sendto", fd, size, syscall(SYS_sendto, fd, data, length, flags, to, to_size)); }
ssize_t sendmsg(int fd, const struct msghdr *message, int flags)
{ PLAIN(SENDS, "sendmsg", fd, NULL, syscall(SYS_sendmsg, fd, message, flags)); }
ssize_t recv(int fd, void *data, size_t size, int flags)
{ PLAIN(RECEIVES, "recv", fd, NULL, syscall(SYS_recvfrom, fd, data, size, flags, NULL, NULL)); }
ssize_t recvfrom(int fd, void *data, size_t size, int flags, struct sockaddr *from, socklen_t *from_size)
{ PLAIN(RECEIVES, "recvfrom", fd, NULL, syscall(SYS_recvfrom, fd, data, size, flags, from, from_size)); }

int ioctl(int fd, unsigned long request, ...)
{
    va_list list;
    va_start(list, request);
    void *argument = va_arg(list, void *);
    va_end(list);
    if (request != BLKZEROOUT)
        return syscall(SYS_ioctl, fd, request, argument);
    PLAIN(CHANGES, "zeroout", fd, NULL, syscall(SYS_ioctl, fd, request, argument));
}

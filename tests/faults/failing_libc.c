/* Calls of the C library that fail, for a program that is started with LD_PRELOAD=this library: a
   disk that gives errors, bits that flip when they are read, a clock that was set back.

   FAILING_CALL    which calls: "fsync" and "write" fail with EIO, as does "read"; "flip" alters a
                   bit of what is read; "clock" sets the clock of the day back.
   FAILING_PATH    a part of the path: files whose path has it are meant.
   FAILING_NUMBER  of "flip": the number of the bit in the file, from 0; of "clock": seconds.
   FAILING_SWITCH  a path: calls fail while there is a file. Without it, they always do. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static const char *call, *part, *lever;
static long long number;

__attribute__((constructor)) static void start(void) {
  part = getenv("FAILING_PATH");
  lever = getenv("FAILING_SWITCH");
  number = atoll(getenv("FAILING_NUMBER"));
  call = getenv("FAILING_CALL");
}

static int is_on(const char *kind) {
  return call && !strcmp(call, kind) && (!lever || access(lever, F_OK) == 0);
}

static int fails(const char *kind, int file) {
  char link[64], path[4096];
  int before = errno;
  if (!is_on(kind)) return errno = before, 0;
  snprintf(link, sizeof link, "/proc/self/fd/%d", file);
  ssize_t length = readlink(link, path, sizeof path - 1);
  errno = before;
  if (length < 0) return 0;
  path[length] = 0;
  return strstr(path, part) != NULL;
}

static void flip(int file, char *bytes, ssize_t count, long long start) {
  long long place = number / 8 - start;
  if (count > 0 && place >= 0 && place < count && fails("flip", file))
    bytes[place] ^= 1 << (number % 8);
}

#define REAL(name) \
  static __typeof__(&name) real; \
  if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)
#define FAIL_IF(kind, file) \
  if (fails(kind, file)) return errno = EIO, -1

int fsync(int file) {
  REAL(fsync);
  FAIL_IF("fsync", file);
  return real(file);
}

int fdatasync(int file) {
  REAL(fdatasync);
  FAIL_IF("fsync", file);
  return real(file);
}

ssize_t write(int file, const void *bytes, size_t count) {
  REAL(write);
  FAIL_IF("write", file);
  return real(file, bytes, count);
}

ssize_t pwrite(int file, const void *bytes, size_t count, off_t start) {
  REAL(pwrite);
  FAIL_IF("write", file);
  return real(file, bytes, count, start);
}

ssize_t pwrite64(int file, const void *bytes, size_t count, off64_t start) {
  REAL(pwrite64);
  FAIL_IF("write", file);
  return real(file, bytes, count, start);
}

ssize_t writev(int file, const struct iovec *pieces, int count) {
  REAL(writev);
  FAIL_IF("write", file);
  return real(file, pieces, count);
}

ssize_t read(int file, void *bytes, size_t count) {
  REAL(read);
  FAIL_IF("read", file);
  ssize_t found = real(file, bytes, count);
  if (found > 0 && call && !strcmp(call, "flip")) {
    int before = errno;
    off_t end = lseek(file, 0, SEEK_CUR);
    errno = before;
    if (end >= found) flip(file, bytes, found, end - found);
  }
  return found;
}

ssize_t pread(int file, void *bytes, size_t count, off_t start) {
  REAL(pread);
  FAIL_IF("read", file);
  ssize_t found = real(file, bytes, count, start);
  flip(file, bytes, found, start);
  return found;
}

ssize_t pread64(int file, void *bytes, size_t count, off64_t start) {
  REAL(pread64);
  FAIL_IF("read", file);
  ssize_t found = real(file, bytes, count, start);
  flip(file, bytes, found, start);
  return found;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
  REAL(clock_gettime);
  int status = real(clock, now);
  if (clock == CLOCK_REALTIME && is_on("clock")) now->tv_sec -= number;
  return status;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
  REAL(gettimeofday);
  int status = real(now, zone);
  if (is_on("clock")) now->tv_sec -= number;
  return status;
}

time_t time(time_t *result) {
  REAL(time);
  time_t now = real(NULL);
  if (is_on("clock")) now -= number;
  if (result) *result = now;
  return now;
}

// The engine's own threads: a team that runs one function together and can meet at a barrier.
#pragma once
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace embedserve {

constexpr int kMostThreads = 4096;

// Spins before it gives its core away: a layer's barriers are microseconds apart.
class Barrier {
 public:
  explicit Barrier(int size) : size_(size) {}
  void wait();
  // For one who will never arrive, because of `failure`: whoever waits, or comes to wait, throws it as well.
  void abandon(std::exception_ptr failure);

 private:
  const int size_;
  std::atomic<int> arrived_{0};
  std::atomic<unsigned> round_{0};
  std::mutex mutex_;
  std::exception_ptr failure_;
  std::atomic<bool> abandoned_{false};
};

// A thread's place in the team that works on one piece.
struct Member {
  int rank;
  int size;
  Barrier* barrier;
  void meet() const { if (size > 1) barrier->wait(); }
  // This member's share of `count` items.
  int begin(int count) const { return static_cast<int>(static_cast<long>(count) * rank / size); }
  int end(int count) const { return static_cast<int>(static_cast<long>(count) * (rank + 1) / size); }
};

class Team {
 public:
  explicit Team(int size);
  ~Team();
  int size() const { return size_; }
  // Runs task(0) on the calling thread and task(rank) on those others that come before it returns: work that is
  // claimed piece by piece, or that meets at a barrier of size(). What a task throws, on whichever thread, is thrown
  // here when all have left it. After fork() the child starts threads of its own; where the system gives none, run()
  // throws and starts none.
  void run(const std::function<void(int)>& task);
  // Runs work(begin, end, rank) on `count` items, `chunk` at a time, each taken by whichever thread is free: the caller
  // takes all that no other has taken.
  void share(int count, int chunk, const std::function<void(int begin, int end, int rank)>& work);

 private:
  struct Shared;
  void start();
  Shared& shared();
  const int size_;
  int process_ = 0;
  std::unique_ptr<Shared> shared_;
};

}  // namespace embedserve

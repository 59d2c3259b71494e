// The declarations of Node that `umrgen/node` uses, so that type checks need no other package. Not part of the package.
declare module "node:fs/promises" {
  interface FileHandle {
    truncate(length: number): Promise<void>;
    write(bytes: Uint8Array, from: number, length: number, at: number): Promise<{ bytesWritten: number }>;
    sync(): Promise<void>;
    close(): Promise<void>;
  }
  function open(path: string, flags: string): Promise<FileHandle>;
  function readFile(path: string): Promise<Uint8Array<ArrayBuffer>>;
  function stat(path: string): Promise<{ isDirectory(): boolean }>;
  function access(path: string, mode: number): Promise<void>;
  function link(from: string, to: string): Promise<void>;
  function rename(from: string, to: string): Promise<void>;
  function unlink(path: string): Promise<void>;
  const constants: { W_OK: number; X_OK: number };
}

declare module "node:path" {
  function basename(path: string): string;
  function dirname(path: string): string;
  function extname(path: string): string;
  function join(...parts: string[]): string;
}

declare module "node:process" {
  const env: Record<string, string | undefined>;
}

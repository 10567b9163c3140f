// Predicts a row with the model "dense". Argument: the server's address.
package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"log"
	"os"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	pb "layerserve.example/predict/gen/layerserve/v1"
)

func main() {
	channel, err := grpc.NewClient(os.Args[1], grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		log.Fatal(err)
	}
	defer channel.Close()
	var row bytes.Buffer
	for range 64 {
		binary.Write(&row, binary.LittleEndian, float32(0.5))
	}
	reply, err := pb.NewPredictionServiceClient(channel).Predict(context.Background(), &pb.PredictRequest{
		Model:  &pb.ModelSpec{Name: "dense"},
		Inputs: []*pb.Tensor{{Dtype: pb.DataType_DATA_TYPE_FLOAT32, Shape: []int64{1, 64}, Data: row.Bytes()}},
	})
	if err != nil {
		log.Fatal(err)
	}
	output := reply.Outputs[0]
	numbers := make([]float32, len(output.Data)/4)
	binary.Read(bytes.NewReader(output.Data), binary.LittleEndian, numbers)
	fmt.Println(output.Name, output.Shape, numbers)
}
